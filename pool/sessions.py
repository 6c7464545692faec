"""Session rows as the pure module sees them, and what follows of them for quotas. Set-based."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import F, Q, QuerySet

from pool import growth
from pool.growth import Run, Stretch, overdue_s, vanished_until
from pool.models import Account, Session, Worker
from pool.states import WorkerState

NOT_HEARD_YET = timedelta(seconds=growth.GAP_S)
"""A session that was enrolled so long ago and has never been heard does not run."""


def session_known(row: Session | None, *, at: datetime) -> growth.Session:
    """The row for `growth.growth`; without one, a session that is first heard of at `at`."""
    if row is None:
        return growth.Session(started_at=at)
    return growth.Session(
        started_at=row.started_at,
        counted_s=row.counted_s,
        clock_started_at=row.clock_started_at,
        estimated_until=row.estimated_until,
        runtime_s=row.runtime_s,
        last_post_at=row.last_post_at,
        ended_at=row.ended_at,
        earlier=tuple(_run(one) for one in row.earlier),
    )


def session_columns(session: growth.Session) -> dict[str, Any]:
    """The columns that hold it."""
    return {**vars(session), "earlier": [_as_json(run) for run in session.earlier]}


def limit_s(account: Account) -> float | None:
    """When a session of this account is over whatever its machine does; None where nobody ends it."""
    hours = account.session_limit_h or account.session_shutdown_h
    return None if hours is None else 3600 * hours


def silent_until(session: growth.Session, worker: Worker, *, until: datetime) -> datetime | None:
    """Until when a session of `worker` that fell silent counts by estimate, if it ran to `until` at most."""
    if session.last_post_at is None:
        return None  # it was enrolled and never heard: nothing says that it ran
    shutdown_h = worker.account.session_shutdown_h
    return vanished_until(
        session,
        until=until,
        limit_s=limit_s(worker.account),
        shutdown_s=None if shutdown_h is None else 3600 * shutdown_h,
        silence_s=overdue_s(worker.check_interval_s, missing=2),
    )


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How long a session had run at read_at (None: it has not been heard yet). estimated_s: not proven by a report."""

    runtime_s: float = 0.0
    estimated_s: float = 0.0
    read_at: datetime | None = None


def runtimes(workers: Iterable[Worker], *, now: datetime) -> dict[str, Runtime]:
    """Worker id -> its present session's runtime; one that is lost is taken to run on, until its limit. One query."""
    of = {worker.pk: worker for worker in workers}
    rows = Session.objects.filter(worker__in=list(of), epoch=F("worker__epoch")).order_by()
    found = {}
    for worker_id, columns in _lean(rows):
        worker, session = of[worker_id], growth.Session(**columns)
        end = session.estimated_until
        if worker.state == WorkerState.LOST and session.ended_at is None:
            end = silent_until(session, worker, until=now) or end
        runtime_s = session.runtime_s
        if end is not None:
            runtime_s = max(runtime_s, (end - session.started_at).total_seconds())
        guessed_s = runtime_s - session.counted_s if end is not None else 0.0
        known_at = [at for at in (session.last_post_at, end) if at is not None]
        found[worker_id] = Runtime(
            runtime_s=runtime_s, estimated_s=max(0.0, guessed_s), read_at=max(known_at, default=None)
        )
    return found


LEAN = ("started_at", "counted_s", "estimated_until", "runtime_s", "last_post_at", "ended_at")


def _lean(rows: QuerySet[Session]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Worker id and the columns for a pure session, of thousands: rows and their JSON cost more than the query."""
    for worker_id, *values in rows.values_list("worker_id", *LEAN):
        yield worker_id, dict(zip(LEAN, values, strict=True))


def tails(accounts: Mapping[str, Account], *, now: datetime) -> dict[str, list[Stretch]]:
    """Account id -> stretches that are in no book: since when its lost workers are silent, and until when they are taken
    to have run on. One query."""
    found: dict[str, list[Stretch]] = {}
    lost = Session.objects.filter(
        worker__account__in=list(accounts),
        worker__state=WorkerState.LOST,
        epoch=F("worker__epoch"),
        ended_at__isnull=True,
    )
    for row in lost.select_related("worker"):
        row.worker.account = accounts[row.worker.account_id]
        session = session_known(row, at=now)
        end = silent_until(session, row.worker, until=now)
        if end is not None:
            begin = max(session.proven_until, session.estimated_until or session.proven_until)
            found.setdefault(row.worker.account_id, []).append((begin, end))
    return found


def running(account: Account, *, at: datetime) -> list[Stretch]:
    """The sessions of `account` that ran at `at` as far as anybody knows, each from its beginning to then. One query."""
    rows = Session.objects.filter(
        Q(ended_at__isnull=True) | Q(ended_at__gt=at), worker__account=account, epoch=F("worker__epoch")
    )
    found = []
    for row in rows.select_related("worker"):
        row.worker.account = account
        session = session_known(row, at=at)
        end: datetime | None = at
        if session.last_post_at is None and at - session.started_at > NOT_HEARD_YET:
            continue
        if row.worker.state == WorkerState.LOST:
            end = silent_until(session, row.worker, until=at) or session.proven_until
        if end is not None and end > session.started_at:
            found.append((session.started_at, end))
    return found


def counted_after(account: Account, *, at: datetime) -> tuple[float, float]:
    """Seconds after `at` that are in the account's books already: proven, and estimated. One query."""
    rows = Session.objects.filter(
        Q(last_post_at__gt=at) | Q(estimated_until__gt=at), worker__account=account
    ).order_by("worker", "epoch")
    proven: dict[str, list[Stretch]] = {}
    guessed: dict[str, list[Stretch]] = {}
    for row in rows:
        session = session_known(row, at=at)
        for run in (*session.earlier, session):
            proven.setdefault(row.worker_id, []).append((run.started_at, run.proven_until))
            if run.estimate is not None:
                guessed.setdefault(row.worker_id, []).append(run.estimate)
    # A machine that enrolled twice has two rows of the same session.
    return _after_s(proven.values(), at), _after_s(guessed.values(), at)


def _after_s(machines: Iterable[list[Stretch]], at: datetime) -> float:
    seconds = 0.0
    for stretches in machines:
        reached = at
        for begin, end in sorted(stretches):
            seconds += max(0.0, (end - max(begin, reached)).total_seconds())
            reached = max(reached, end)
    return seconds


def overlap_s(stretches: Collection[Stretch], *, begin: datetime, end: datetime) -> float:
    """Seconds of these stretches between `begin` and `end`."""
    return sum(max(0.0, (min(to, end) - max(since, begin)).total_seconds()) for since, to in stretches)


def _run(kept: Mapping[str, Any]) -> Run:
    clock, estimated = kept.get("clock_started_at"), kept.get("estimated_until")
    return Run(
        started_at=datetime.fromisoformat(kept["started_at"]),
        counted_s=kept["counted_s"],
        clock_started_at=datetime.fromisoformat(clock) if clock else None,
        estimated_until=datetime.fromisoformat(estimated) if estimated else None,
    )


def _as_json(run: Run) -> dict[str, Any]:
    clock, estimated = run.clock_started_at, run.estimated_until
    return {
        "started_at": run.started_at.isoformat(),
        "counted_s": run.counted_s,
        "clock_started_at": clock.isoformat() if clock else None,
        "estimated_until": estimated.isoformat() if estimated else None,
    }
