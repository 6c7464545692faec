"""Silence by the thousand: a network that fails takes its workers with it at once, and their jobs must run elsewhere.

What happens to each is what `workers.worker_lost` does to one, with a few statements for all of them. Workers of rented
instances, and work that is more than a job to be queued again, go the slow way, one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from datetime import datetime

from django.db import transaction
from django.db.models import Count

from core.bulk import update_rows
from core.reasons import Reason, because
from core.transitions import Move, advance_each
from pool import signals
from pool.models import Dispatch, Job, Worker
from pool.services.bell import dispatcher_ring
from pool.services.checkpoints import attempts_counted
from pool.services.dispatches import dispatch_withdraw
from pool.services.publish import orders_publish
from pool.services.workers import overdue_at, worker_lost
from pool.states import LISTENING, OPEN, DispatchState, JobState, WorkerState

log = logging.getLogger(__name__)


def workers_silent(worker_ids: Collection[str], *, now: datetime, resumed_at: datetime) -> int:
    """Those of them whose posts are overdue: suspect, or lost with all that they hold withdrawn; returns how many.

    In one transaction. Whoever is locked at this moment is being heard, and is left for the next run. resumed_at: since
    when they could be heard; silence before that is ours.
    """
    with transaction.atomic():
        # Intake locks thousands of workers in an order of its own: whoever holds several must not wait for another.
        rows = Worker.objects.filter(pk__in=worker_ids, state__in=LISTENING, due_at__lt=now)
        rows = rows.select_related("account").order_by("pk")
        workers = list(rows.select_for_update(of=("self",), skip_locked=True, no_key=True))
        later: list[dict[str, object]] = []
        suspects: list[Move] = []
        lost: list[tuple[Worker, Reason]] = []
        for worker in workers:
            seen_at = max(worker.last_seen_at or worker.state_since, resumed_at)
            suspect_at = overdue_at(seen_at, check_interval_s=worker.check_interval_s)
            lost_at = overdue_at(seen_at, check_interval_s=worker.check_interval_s, missing=2)
            due_at = suspect_at if now < suspect_at else lost_at
            reason = because(
                "posts_missing",
                silent_s=(now - (worker.last_seen_at or worker.state_since)).total_seconds(),
                interval_s=worker.check_interval_s,
            )
            if now >= suspect_at and worker.state == WorkerState.ONLINE:
                suspects.append(Move(row=worker, reason=reason, columns={"due_at": due_at}))
            elif now < lost_at:
                later.append({"id": worker.pk, "epoch": worker.epoch, "due_at": due_at})
            if now >= lost_at:
                lost.append((worker, reason))
        update_rows(Worker, later, match=("id", "epoch"))
        advance_each(suspects, WorkerState.SUSPECT, now=now)
        _lose(lost, now=now)
    return len(workers)


def _lose(lost: Iterable[tuple[Worker, Reason]], *, now: datetime) -> None:
    shared = []
    for worker, reason in lost:
        if worker.instance_ref:
            worker_lost(worker, reason=reason, now=now)
        else:
            shared.append(Move(row=worker, reason=reason, columns={"due_at": None}))
    if not shared:
        return
    advance_each(shared, WorkerState.LOST, now=now)
    workers = {move.row.pk: move.row for move in shared}
    _withdraw(workers, reason=because("worker_away", state=str(WorkerState.LOST)), now=now)
    orders_publish(workers)
    for worker in workers.values():
        signals.worker_away.send(sender=Worker, worker=worker, now=now)


def _withdraw(worker_ids: Collection[str], *, reason: Reason, now: datetime) -> None:
    """Everything that these workers hold: `dispatches.dispatch_withdraw` of each. Dispatches are locked before jobs."""
    held = Dispatch.objects.filter(worker__in=worker_ids, state__in=OPEN).order_by("pk")
    rows = list(held.select_related("worker__account", "job").select_for_update(of=("self",)))
    if not rows:
        return
    jobs = _jobs({row.job_id for row in rows if row.job_id is not None})
    begun = _begun(jobs)
    plain, others = [], []
    for row in rows:
        row.job = jobs.get(row.job_id, row.job)
        (plain if _is_plain(row, begun=begun.get(row.job_id, 0)) else others).append(row)
    advance_each([Move(row=row, reason=reason) for row in plain], DispatchState.WITHDRAWN, now=now)
    again = []
    for row in plain:
        why = because("job_requeued", attempt=row.number, why=row.reason)
        again.append(Move(row=row.job, reason=why))
    advance_each(again, JobState.QUEUED, now=now)
    for row in plain:
        signals.dispatch_finished.send(sender=Dispatch, dispatch=row, now=now)
    if plain:
        dispatcher_ring()
    for row in others:
        dispatch_withdraw(row, reason=reason, now=now)


def _jobs(job_ids: Collection[str]) -> dict[str, Job]:
    """Locked, as they are now."""
    rows = Job.objects.filter(pk__in=job_ids, state__in=(JobState.DISPATCHED, JobState.RUNNING))
    return {job.pk: job for job in rows.order_by("pk").select_for_update(no_key=True)}


def _begun(job_ids: Collection[str]) -> dict[str, int]:
    """Job id -> how many of its attempts count, as `checkpoints.attempts_fruitless` counts those of a job that keeps none."""
    rows = attempts_counted(Dispatch.objects.filter(job__in=list(job_ids))).order_by()
    return dict(rows.values_list("job_id").annotate(number=Count("pk")))


def _is_plain(row: Dispatch, *, begun: int) -> bool:
    """Whether its end is nothing but its job's return to the queue."""
    job = row.job
    return (
        job is not None
        and job.attempt == row.number
        and job.state in (JobState.DISPATCHED, JobState.RUNNING)
        and job.checkpoint_every_s is None
        and job.cancel_requested_at is None
        and row.cancel_requested_at is None
        and (row.claimed_at is None or begun < job.max_attempts)
    )
