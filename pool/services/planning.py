"""The capacity plan from the rows: accounts and their weeks, workers online, the queue, four weeks of use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from django.db.models import Count, Sum

from pool.models import Account, AccountUse, Dispatch, Job, Worker
from pool.plan import Part, Plan, Queue, plan, usual_day
from pool.quota import SESSION, week_end
from pool.selectors import slots_taken
from pool.states import LISTENING, DispatchState, JobState, WorkerState
from pool.supply import Day, Holding, Standing
from pool.usage import Figures, WeekUse, figures, limits_of, week_use

HISTORY = timedelta(weeks=4)
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
    known = figures(workers, now=now)
    running = [worker for worker in workers if worker.state in LISTENING and worker.account.enabled]
    online = [worker for worker in running if worker.state == WorkerState.ONLINE]
    safe = [worker for worker in online if known[worker.pk].reading().safe]
    use = week_use([account for account in accounts.values() if account.weekly_limit_h is not None], now=now)
    sessions = _sessions(workers)
    there = Counter(worker.account_id for worker in online)
    days = _usual(accounts, now=now)
    holdings = {
        key: _holding(
            account,
            use.get(key, WeekUse()),
            sessions=max(1, sessions.get(key, 0)),
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
    standings = [_standing(worker, known[worker.pk]) for worker in running]
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


def _holding(account: Account, use: WeekUse, *, sessions: int, usual: Day, now: datetime) -> Holding:
    limits = limits_of(account)
    part = limits.safe_percent / 100
    runs_h = session_h = limits.session_shutdown_h or limits.session_limit_h
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
        week_h=None if weekly is None else part * weekly,
        session_h=session_h,
        runs_h=runs_h,
        resets_at=None if weekly is None else week_end(now, limits.week),
        sessions=sessions,
        usual=usual,
    )


def _standing(worker: Worker, one: Figures) -> Standing:
    """How long its machine's session is fit for jobs, and when it is over. What its week allows is the plan's to say."""
    limits, read = one.limits, one.reading()
    runtime_h = one.session.runtime_s / 3600
    shutdown_h = limits.session_shutdown_h
    ends_h = None if shutdown_h is None else max(0.0, shutdown_h - runtime_h)
    serves_h = ends_h
    if worker.state != WorkerState.ONLINE or (limits.weekly_limit_h is None and not read.safe):
        serves_h = 0.0
    elif read.model == SESSION and shutdown_h is not None:
        serves_h = max(0.0, limits.safe_percent / 100 * shutdown_h - runtime_h)
    return Standing(account_id=worker.account_id, kind=worker.account.kind, serves_h=serves_h, ends_h=ends_h)


def _sessions(workers: Iterable[Worker]) -> dict[str, int]:
    """Account id -> how many sessions it may run at once, as far as is known: its named workers, and those that run."""
    return Counter(worker.account_id for worker in workers if worker.named or worker.state in LISTENING)


def _usual(accounts: Mapping[str, Account], *, now: datetime) -> dict[str, Day]:
    since = now - HISTORY
    rows = AccountUse.objects.filter(at__gte=since, at__lt=now, shared_s__gt=0).order_by()
    parts: dict[str, list[Part]] = {}
    for account_id, at, seconds in rows.values_list("account_id", "at", "shared_s"):
        parts.setdefault(account_id, []).append((at, seconds))
    return {
        key: usual_day(parts.get(key, []), since=since, until=now, zone=account.reset_zone)
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
