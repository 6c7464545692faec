"""What others may read of the pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import Count, F, Q, QuerySet

from pool.models import HAUNTING, Account, Dispatch, Job, Session, Worker
from pool.quota import Reading, week_end
from pool.states import OPEN, JobState, WorkerState
from pool.usage import WeekUse, limits_of, readings, week_use


def dispatches_open(worker: Worker, *, kinds: Collection[str] = ()) -> QuerySet[Dispatch]:
    """What `worker` was given and has not ended, the oldest first; of these kinds, or of all."""
    rows = Dispatch.objects.filter(worker=worker, state__in=OPEN).order_by("state_since", "pk")
    return rows.filter(kind__in=kinds) if kinds else rows


def jobs_waiting_for_instances() -> QuerySet[Job]:
    """Queued jobs that name an instance: what a sleeping one could be woken for, and a running one is kept awake for."""
    return (
        Job.objects.filter(state=JobState.QUEUED).exclude(instance_ref="").order_by("-priority", "queued_at")
    )


# -- slots ------------------------------------------------------------------------------------------


def slots_taken() -> dict[str, int]:
    """Worker id -> how many jobs hold its slots; workers without any are left out."""
    taken: Counter[str] = Counter()
    for rows in holding_slots(Dispatch.objects.all()):
        taken.update(dict(rows.order_by().values_list("worker_id").annotate(jobs=Count("pk"))))
    return dict(taken)


def holding_slots(rows: QuerySet[Dispatch]) -> tuple[QuerySet[Dispatch], QuerySet[Dispatch]]:
    """Of these, the open jobs, and the withdrawn ones that still run as far as anybody knows: both hold a slot.

    Two queries, because each has an index and their OR has none.
    """
    jobs = rows.filter(kind=Dispatch.Kind.JOB)
    return jobs.filter(state__in=OPEN), jobs.filter(**HAUNTING, epoch=F("worker__epoch"))


# -- workers ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A worker as people see it: beside its row, what was read, what it holds, and its present session."""

    reading: Reading
    taken: int
    session: Session | None


def workers_seen_by(user: Any) -> QuerySet[Worker]:
    """The workers that a person may see: those of the shared pool and her own; staff sees all."""
    rows = Worker.objects.select_related("account", "owner", "interrogation")
    return rows if user.is_staff else rows.filter(Q(owner=None) | Q(owner=user))


def shown(workers: Iterable[Worker], *, now: datetime) -> list[Worker]:
    """The same workers, each with `shown` set. Four queries, whatever the number."""
    rows = list(workers)
    of = readings(rows, now=now)
    taken = slots_taken()
    sessions = {
        row.worker_id: row
        for row in Session.objects.filter(worker__in=[worker.pk for worker in rows], epoch=F("worker__epoch"))
    }
    for worker in rows:
        worker.shown = Shown(of[worker.pk], taken.get(worker.pk, 0), sessions.get(worker.pk))
    return rows


# -- the pool ---------------------------------------------------------------------------------------


@dataclass
class ProviderStatus:
    """The workers of one provider. hours_left: of their weeks and running sessions; None where nothing limits them."""

    provider: str
    workers: int = 0
    online: int = 0
    safe: int = 0
    hours_left: float | None = None

    def add_hours(self, hours: float) -> None:
        self.hours_left = (self.hours_left or 0.0) + hours


@dataclass
class AccountWeekStatus:
    """How far an account is in its week. use: where the hours are from, and how sure they are."""

    account: Account
    use: WeekUse
    limit_h: float
    resets_at: datetime

    @property
    def used_h(self) -> float:
        return self.use.used_h

    @property
    def percent(self) -> float:
        return 100.0 * self.used_h / self.limit_h if self.limit_h else 100.0


@dataclass
class PoolStatus:
    """The shared pool at a glance. online_percent: of all its workers; safe: online and safe on quota.

    hours_left: None where nothing ends.
    """

    workers: int = 0
    online: int = 0
    safe: int = 0
    hours_left: float | None = None
    jobs: dict[str, int] = field(default_factory=dict)
    providers: list[ProviderStatus] = field(default_factory=list)
    weeks: list[AccountWeekStatus] = field(default_factory=list)

    @property
    def online_percent(self) -> float:
        return 100.0 * self.online / self.workers if self.workers else 0.0


def pool_status(*, now: datetime) -> PoolStatus:
    """Workers, safety, capacity and queue of the shared pool; rented instances are not part of it."""
    rows = list(
        Worker.objects.filter(instance_ref="").exclude(state=WorkerState.REVOKED).select_related("account")
    )
    of = readings(rows, now=now)
    providers: dict[str, ProviderStatus] = {}
    for worker in rows:
        one = providers.setdefault(worker.account.kind, ProviderStatus(worker.account.kind))
        one.workers += 1
        if worker.state != WorkerState.ONLINE:
            continue
        one.online += 1
        one.safe += of[worker.pk].safe
        left_h = of[worker.pk].left_h
        if worker.account.weekly_limit_h is None and left_h is not None:
            one.add_hours(left_h)
    weeks = _weeks({worker.account_id: worker.account for worker in rows}.values(), now=now)
    for week in weeks:
        providers[week.account.kind].add_hours(max(0.0, week.limit_h - week.used_h))
    listed = sorted(providers.values(), key=lambda one: one.provider)
    known = [one.hours_left for one in listed if one.hours_left is not None]
    return PoolStatus(
        workers=sum(one.workers for one in listed),
        online=sum(one.online for one in listed),
        safe=sum(one.safe for one in listed),
        hours_left=sum(known) if known else None,
        jobs=_jobs_by_state(),
        providers=listed,
        weeks=weeks,
    )


def _weeks(accounts: Iterable[Account], *, now: datetime) -> list[AccountWeekStatus]:
    weekly = [account for account in accounts if account.weekly_limit_h is not None]
    used = week_use(weekly, now=now)
    return [
        AccountWeekStatus(
            account=account,
            use=used[account.pk],
            limit_h=account.weekly_limit_h,
            resets_at=week_end(now, limits_of(account).week),
        )
        for account in sorted(weekly, key=lambda account: account.label)
    ]


def _jobs_by_state() -> dict[str, int]:
    waiting = (JobState.DEFERRED, JobState.QUEUED, JobState.DISPATCHED, JobState.RUNNING)
    rows = Job.objects.filter(state__in=waiting).order_by().values_list("state")
    return {**dict.fromkeys(map(str, waiting), 0), **Counter(dict(rows.annotate(jobs=Count("pk"))))}
