"""The capacity plan from the rows: accounts and their weeks, workers online, the queue, four weeks of use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from django.db.models import Count, Sum

from pool.models import Account, Dispatch, Job, Session, Worker
from pool.plan import Day, Holding, Plan, Queue, Spell, Standing, plan, usual_day
from pool.quota import SESSION, Reading, week_end
from pool.selectors import slots_taken
from pool.states import DispatchState, JobState, WorkerState
from pool.usage import WeekUse, limits_of, readings, week_use

HISTORY = timedelta(weeks=4)
LONGEST_SESSION = timedelta(days=1)
"""A session that began so long before the four weeks is not looked for."""

JOB_H = 1.0
"""How long a job takes, where neither it nor any other has said."""


@dataclass(frozen=True, kw_only=True)
class AccountPlan:
    """An account beside its place in the plan."""

    account: Account
    holding: Holding
    use: WeekUse
    online: int


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """typical_job_h: taken for jobs that do not say how long they expect to run."""

    at: datetime
    plan: Plan
    queue: Queue
    typical_job_h: float
    online: int
    safe: int
    accounts: list[AccountPlan]


def pool_plan(
    *, user: Any, now: datetime, within_h: float = 4.0, wanted: Mapping[str, int] | None = None
) -> PoolPlan:
    """The plan for the next day. A person may open her own accounts, staff any; need and supply are the shared pool's.
    Accounts without a limit of hours are not opened, and not listed.

    within_h: so long may the queue take. wanted: level (peak, average, night) -> workers, in place of what was used.
    """
    accounts = {account.pk: account for account in Account.objects.select_related("owner")}
    workers = list(
        Worker.objects.filter(instance_ref="", account__in=list(accounts)).exclude(state=WorkerState.REVOKED)
    )
    for worker in workers:
        worker.account = accounts[worker.account_id]
    read = readings(workers, now=now)
    online = [worker for worker in workers if worker.state == WorkerState.ONLINE and worker.account.enabled]
    safe = [worker for worker in online if read[worker.pk].safe]
    use = week_use([account for account in accounts.values() if account.weekly_limit_h is not None], now=now)
    known = Counter(worker.account_id for worker in workers)
    there = Counter(worker.account_id for worker in online)
    spent = Counter(worker.account_id for worker in online if not read[worker.pk].safe)
    days = _usual(accounts, now=now)
    holdings = {
        key: _holding(
            account,
            use.get(key, WeekUse()),
            sessions=max(1, known[key]),
            running=spent[key],
            usual=days[key],
            now=now,
        )
        for key, account in accounts.items()
    }
    mine = [
        one
        for key, one in holdings.items()
        if (user.is_staff or accounts[key].owner_id == user.pk)
        and not (one.usable_h is None and one.session_h is None)
    ]
    typical_job_h = _typical_job_h(now=now)
    queue = _queue(online, within_h=within_h, job_h=typical_job_h)
    standings = [
        Standing(
            account_id=worker.account_id,
            kind=worker.account.kind,
            serves_h=_serves_h(worker.account, read[worker.pk]),
        )
        for worker in safe
    ]
    found = plan(mine, standings, queue, now=now, usual=list(holdings.values()), wanted=wanted)
    return PoolPlan(
        at=now,
        plan=found,
        queue=queue,
        typical_job_h=typical_job_h,
        online=len(online),
        safe=len(safe),
        accounts=[
            AccountPlan(
                account=accounts[one.account_id],
                holding=one,
                use=use.get(one.account_id, WeekUse()),
                online=there[one.account_id],
            )
            for one in sorted(mine, key=lambda one: (one.kind, one.label))
        ],
    )


def _holding(
    account: Account, use: WeekUse, *, sessions: int, running: int, usual: Day, now: datetime
) -> Holding:
    limits = limits_of(account)
    part = limits.safe_percent / 100
    session_h = limits.session_shutdown_h or limits.session_limit_h
    weekly = limits.weekly_limit_h
    if weekly is None and session_h is not None:
        session_h *= part
    return Holding(
        account_id=account.pk,
        label=str(account),
        kind=account.kind,
        enabled=account.enabled,
        zone=account.reset_zone,
        usable_h=None if weekly is None else max(0.0, part * weekly - use.used_h),
        session_h=session_h,
        resets_at=None if weekly is None else week_end(now, limits.week),
        sessions=sessions,
        running=running,
        usual=usual,
    )


def _serves_h(account: Account, read: Reading) -> float | None:
    """How long a worker is still safe, if its machine runs on."""
    if read.left_h is None or read.limit is None:
        return read.left_h
    hours = [read.left_h]
    if read.model == SESSION or account.weekly_limit_h is not None:
        hours.append(max(0.0, account.safe_percent / 100 * read.limit - read.used))
    return min(hours)


def _usual(accounts: Mapping[str, Account], *, now: datetime) -> dict[str, Day]:
    since = now - HISTORY
    spells: dict[str, list[Spell]] = {}
    rows = Session.objects.filter(
        worker__instance_ref="", started_at__gt=since - LONGEST_SESSION, started_at__lt=now, counted_s__gt=0
    )
    for account_id, began, runtime_s in rows.order_by().values_list(
        "worker__account_id", "started_at", "counted_s"
    ):
        spells.setdefault(account_id, []).append((began, began + timedelta(seconds=runtime_s)))
    return {
        key: usual_day(spells.get(key, []), since=since, until=now, zone=account.reset_zone)
        for key, account in accounts.items()
    }


def _queue(online: Iterable[Worker], *, within_h: float, job_h: float) -> Queue:
    waiting = Job.objects.filter(state=JobState.QUEUED, instance_ref="").order_by()
    jobs: dict[str, int] = {}
    hours: dict[str, float] = {}
    for row in waiting.values("provider").annotate(
        jobs=Count("pk"), said=Count("expected_hours"), hours=Sum("expected_hours")
    ):
        jobs[row["provider"]] = row["jobs"]
        hours[row["provider"]] = (row["hours"] or 0.0) + job_h * (row["jobs"] - row["said"])
    taken = slots_taken()
    busy = Counter(worker.account.kind for worker in online if taken.get(worker.pk))
    return Queue(jobs=jobs, hours=hours, busy=busy, within_h=within_h)


RECENT_JOBS = 200


def _typical_job_h(*, now: datetime) -> float:
    """The median run of the last jobs that succeeded; of four weeks at most."""
    rows = (
        Dispatch.objects.filter(
            kind=Dispatch.Kind.JOB,
            state=DispatchState.SUCCEEDED,
            finished_at__gt=now - HISTORY,
            claimed_at__isnull=False,
        )
        .order_by("-finished_at")
        .values_list("claimed_at", "finished_at")[:RECENT_JOBS]
    )
    hours = [(end - begin).total_seconds() / 3600 for begin, end in rows]
    return max(1 / 60, median(hours)) if hours else JOB_H
