"""Work for one worker, as the control plane asks for it and takes it back. What agents report is in `reports`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from core.doorbell import ring_worker
from core.errors import Busy, Invalid
from core.reasons import Reason, because
from core.transitions import advance, event_add
from pool import signals
from pool.models import Dispatch, Worker
from pool.services.attempts import attempt_ended
from pool.services.publish import orders_publish
from pool.states import LISTENING, OPEN, DispatchState

LEASE_INTERVALS = 3
LEASE_MIN_S = 10.0


def lease_s(check_interval_s: float) -> float:
    """How long a claimed dispatch stays its worker's without being mentioned: three status posts."""
    return max(LEASE_MIN_S, LEASE_INTERVALS * check_interval_s)


def dispatch_ask(
    *,
    worker: Worker,
    kind: str,
    ref: str,
    key: str,
    work: Mapping[str, Any],
    now: datetime | None = None,
) -> Dispatch:
    """Give `worker`, in its present epoch, a piece of work and ring its bell after the commit.

    kind: snapshot, restore or command; work: as wire.Claimed describes it for that kind. ref: what it is for. key:
    asking again with the same key returns the first dispatch as it is by now, whatever became of it, and rings nothing.
    Raises Busy where the worker is not there to take it, Invalid for a kind that is not one.
    """
    now = now or timezone.now()
    if kind not in Dispatch.Kind.values or kind == Dispatch.Kind.JOB:
        raise Invalid(
            f"kind {kind!r} cannot be asked for", hint="snapshot, restore or command; jobs are chosen"
        )
    found = Dispatch.objects.filter(key=key).first()
    if found is not None:
        return found
    current = Worker.objects.filter(pk=worker.pk).only("state", "epoch").first()
    if current is None or current.state not in LISTENING:
        state = current.state if current else "gone"
        raise Busy(f"worker {worker.pk} is {state}", retry_after_s=2, hint="wait until it posts its status")
    try:
        with transaction.atomic():
            return dispatch_create(
                worker=current,
                kind=kind,
                reason=because("dispatch_rung"),
                now=now,
                ref=ref,
                key=key,
                work=dict(work),
            )
    except IntegrityError:
        # Somebody asked with the same key at the same moment.
        return Dispatch.objects.get(key=key)


def dispatch_create(*, worker: Worker, kind: str, reason: Reason, now: datetime, **columns: Any) -> Dispatch:
    """The row, its first event and its bell. Call it in a transaction; raises IntegrityError on a taken key or slot."""
    dispatch = Dispatch(
        worker=worker,
        epoch=worker.epoch,
        kind=kind,
        state=DispatchState.RUNG,
        state_since=now,
        rung_at=now,
        **Dispatch.reason_columns(reason),
        **columns,
    )
    dispatch.save(force_insert=True)
    event_add(dispatch, "dispatch_rung", reason=reason, now=now, to_state=DispatchState.RUNG)
    ring_worker(worker.pk, dispatch.pk)
    return dispatch


def dispatch_withdraw(
    dispatch: Dispatch, *, reason: Reason, by: str = "", now: datetime | None = None
) -> bool:
    """Take an open dispatch back; its job, if it is one, is queued again. False where it had ended already.

    Whatever its worker still reports about it is answered with stand down; a worker that had begun it is ordered to stop.
    """
    now = now or timezone.now()
    with transaction.atomic():
        row = dispatch_locked(dispatch.pk)
        if row is None or row.state not in OPEN:
            return False
        dispatch_end(row, DispatchState.WITHDRAWN, reason=reason, by=by, now=now)
        if row.claimed_at is not None:
            orders_publish([row.worker_id])
    return True


def dispatch_cancel(dispatch: Dispatch, *, reason: Reason, by: str = "", now: datetime | None = None) -> bool:
    """Stop a dispatch: an unclaimed one is withdrawn at once, a claimed one is ordered to stop and reports its end.

    False where it had ended already. Asking again changes nothing.
    """
    now = now or timezone.now()
    with transaction.atomic():
        row = dispatch_locked(dispatch.pk)
        if row is None or row.state not in OPEN:
            return False
        if row.state == DispatchState.RUNG:
            return dispatch_withdraw(row, reason=reason, by=by, now=now)
        asked = Dispatch.objects.filter(
            pk=row.pk, state=DispatchState.CLAIMED, cancel_requested_at__isnull=True
        )
        if asked.update(cancel_requested_at=now):
            event_add(row, "dispatch_cancel_asked", reason=reason, by=by, now=now)
            orders_publish([row.worker_id])
    return True


def dispatches_withdraw(
    worker: Worker, *, reason: Reason, now: datetime, unclaimed_jobs: bool = False
) -> int:
    """Take back everything that `worker` holds in any epoch; returns how many there were.

    unclaimed_jobs: only the jobs that it was given and has not begun.
    """
    rows = Dispatch.objects.filter(worker=worker, state__in=OPEN)
    if unclaimed_jobs:
        rows = rows.filter(state=DispatchState.RUNG, kind=Dispatch.Kind.JOB)
    return sum(dispatch_withdraw(row, reason=reason, now=now) for row in list(rows.order_by("pk")))


def dispatch_locked(dispatch_id: str) -> Dispatch | None:
    """The row, locked until the end of the transaction (on SQLite every transaction holds the one lock there is).

    Its worker and job come with it, unlocked: on PostgreSQL they may be older than the row.
    """
    rows = Dispatch.objects.select_for_update(of=("self",)).select_related("worker", "job")
    try:
        return rows.get(pk=dispatch_id)
    except Dispatch.DoesNotExist:
        return None


def dispatch_end(
    dispatch: Dispatch, state: DispatchState, *, reason: Reason, now: datetime, by: str = "", **columns: Any
) -> None:
    """The one way to a final state: the row, its job, then whoever listens. Call it in a transaction on a locked row."""
    advance(dispatch, state, reason=reason, by=by, now=now, **columns)
    if dispatch.kind == Dispatch.Kind.JOB:
        attempt_ended(dispatch, now=now)
    if dispatch.cancel_requested_at is not None:
        orders_publish([dispatch.worker_id])
    signals.dispatch_finished.send(sender=Dispatch, dispatch=dispatch, now=now)
