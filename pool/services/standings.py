"""The columns by which selection decides, kept current: quota standings where readings arrive, slots as jobs end.

`taken` has one writer, the dispatcher: it adds where it gives a job, and takes off here what has ended since. Nobody
who ends a dispatch touches its worker's row, so nobody waits for it in another order than the dispatcher does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Count, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from core.bulk import update_rows
from pool.models import HAUNTING, Account, Dispatch, Worker
from pool.services.publish import orders_publish
from pool.standing import Standing, standing
from pool.states import LISTENING, OPEN, DispatchState, WorkerState
from pool.usage import figures, workers_lean

AT_ONCE = 2_000

TELL_S = 15.0

COLUMNS = ("used_percent", "safe_until", "ends_at", "renews_at")

ENDED = tuple(state for state in DispatchState if state not in OPEN)


def standings_write(workers: Iterable[Worker], *, now: datetime) -> dict[str, Standing]:
    """Read the quota of these workers and write what changed; returns the standings of those that have a limit.

    The workers come with their accounts. Two queries and a statement a thousand workers; one more where weeks count.
    """
    rows = list(workers)
    standings = _standings(rows, now=now)
    changed, told = [], []
    for worker in rows:
        columns = _columns(standings[worker.pk])
        if _of_week(worker.account) and _moved(worker.ends_at, columns["ends_at"]):
            told.append(worker.pk)
        if any(getattr(worker, name) != value for name, value in columns.items()):
            for name, value in columns.items():
                setattr(worker, name, value)
            changed.append({"id": worker.pk, "epoch": worker.epoch, **columns})
    update_rows(Worker, changed, match=("id", "epoch"))
    orders_publish(told, ring=False)
    return {key: one for key, one in standings.items() if one.renews_at is not None}


def standings_renew(*, now: datetime) -> int:
    """Read anew what has been read too long ago, or before a week began; returns how many there were.

    One query on an index where there is nothing to do.
    """
    due = Worker.objects.filter(renews_at__lte=now).order_by("renews_at")
    if not due.exists():
        return 0
    with transaction.atomic():
        ids = _locked(due[:AT_ONCE])
        online = workers_lean(Worker.objects.filter(pk__in=ids, state=WorkerState.ONLINE))
        # The others are read when they post again.
        Worker.objects.filter(pk__in=ids).exclude(state=WorkerState.ONLINE).update(renews_at=None)
        standings_write(online, now=now)
    return len(ids)


def standings_expire(accounts: Collection[str]) -> None:
    """Have the workers of these accounts read anew by the dispatcher's next run: their limits or hours have changed.

    Whoever does not say so is found out after READ_AGAIN_S, or by the workers' next posts.
    """
    with transaction.atomic():
        ids = _locked(Worker.objects.filter(account__in=accounts, state=WorkerState.ONLINE))
        Worker.objects.filter(pk__in=ids).update(renews_at=F("state_since"))


def slots_release() -> int:
    """Take off `taken` what has ended; returns how many jobs that were. One query on an index where there is none.

    Two at once are safe: the rows are counted under their workers' locks.
    """
    ended = Dispatch.objects.filter(counted=True, state__in=ENDED)
    holding = Q(**HAUNTING, epoch=F("worker__epoch"))
    found = list(ended.exclude(holding).order_by().values_list("pk", "worker_id")[:AT_ONCE])
    if not found:
        return 0
    with transaction.atomic():
        workers = set(_locked(Worker.objects.filter(pk__in={worker_id for _, worker_id in found})))
        ours = [pk for pk, worker_id in found if worker_id in workers]
        Dispatch.objects.filter(pk__in=ours).update(counted=False)
        counted = Dispatch.objects.filter(
            worker=OuterRef("pk"), counted=True, state__in=(*OPEN, DispatchState.WITHDRAWN)
        )
        number = counted.order_by().values("worker").annotate(number=Count("pk")).values("number")
        Worker.objects.filter(pk__in=workers).update(taken=Coalesce(Subquery(number), 0))
    return len(ours)


def _locked(workers: QuerySet[Worker]) -> list[str]:
    """Those of them that nobody else has locked, locked until the end of the transaction; the others' turn comes again.

    Intake locks thousands of workers in an order of its own: whoever holds several must not wait for another.
    """
    return list(workers.select_for_update(skip_locked=True).values_list("pk", flat=True))


def _standings(rows: list[Worker], *, now: datetime) -> dict[str, Standing]:
    running = _running({row.account_id for row in rows if row.account.weekly_limit_h is not None})
    return {
        worker.pk: standing(
            one.limits,
            read_at=one.session.read_at or now,
            now=now,
            session_runtime_h=one.session.runtime_s / 3600,
            session_estimated_h=one.session.estimated_s / 3600,
            week_used_h=one.week.used_h,
            week_estimated_h=one.week.estimated_h,
            spent_usd_day=one.spent.usd_day,
            spent_usd_month=one.spent.usd_month,
            running=running.get(worker.account_id, 1),
        )
        for of in [figures(rows, now=now)]
        for worker in rows
        for one in [of[worker.pk]]
    }


def _running(accounts: set[str]) -> dict[str, int]:
    """Account id -> how many of its machines run, of accounts whose week they use up together."""
    if not accounts:
        return {}
    there = Worker.objects.filter(account__in=accounts, state__in=LISTENING).order_by()
    return dict(there.values_list("account_id").annotate(number=Count("pk")))


def _of_week(account: Account) -> bool:
    """Whether its agents end their sessions before its week does."""
    return account.weekly_limit_h is not None and account.session_shutdown_h is not None


def _moved(before: datetime | None, after: datetime | None) -> bool:
    """Whether its agent should know now; what moves by less goes out with the publication of everything."""
    if before is None or after is None:
        return before is not after
    return abs((after - before).total_seconds()) > TELL_S


def _columns(one: Standing) -> dict[str, Any]:
    return {name: getattr(one, name) for name in COLUMNS}
