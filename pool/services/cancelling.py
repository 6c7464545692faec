"""Jobs and arrays of jobs as people cancel them."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.utils import timezone

from core.errors import TransitionRefused
from core.reasons import because
from core.transitions import advance, advance_many, event_add
from pool.models import Job, JobArray
from pool.services.bell import dispatcher_ring
from pool.services.dispatches import dispatch_cancel, dispatch_locked
from pool.states import OPEN, JobState

AT_ONCE = 1_000


def job_cancel(job: Job, *, by: str = "", now: datetime | None = None) -> Job:
    """Stop a job: one that has not started at once, one that runs as soon as its worker has ended its processes.

    Cancelled already is fine. Raises TransitionRefused where it has ended otherwise. Returns the job as it is then.
    """
    now = now or timezone.now()
    for _ in range(3):
        try:
            with transaction.atomic():
                _cancel(job, by=by, now=now)
        except TransitionRefused:
            # A dispatcher or its worker moved it at this moment: what has to be done may be another thing now.
            job.refresh_from_db()
            if job.state in Job.TABLE.final:
                break
        else:
            break
    else:
        raise TransitionRefused(f"job {job.pk} moves too fast to be cancelled", hint="cancel it again")
    job.refresh_from_db()
    if job.state in Job.TABLE.final and job.state != JobState.CANCELLED:
        raise TransitionRefused(
            f"job {job.pk} has {job.state} already", hint="there is nothing left to cancel"
        )
    return job


def array_cancel(array: JobArray, *, by: str = "", now: datetime | None = None) -> int:
    """Stop every job of it that has not ended; returns how many. Those that wait go by the thousand."""
    now = now or timezone.now()
    reason = because("job_cancelled", by=by or "its owner")
    rows = Job.objects.filter(array=array)
    stopped = 0
    for source in (JobState.DEFERRED, JobState.QUEUED):
        while moved := advance_many(
            rows,
            JobState.CANCELLED,
            source=source,
            reason=reason,
            by=by,
            now=now,
            at_most=AT_ONCE,
            ended_at=now,
        ):
            stopped += moved
    # What a dispatcher took meanwhile, or a worker has.
    for job in rows.exclude(state__in=Job.TABLE.final).filter(cancel_requested_at=None).order_by("pk"):
        try:
            job_cancel(job, by=by, now=now)
        except TransitionRefused:
            continue  # it has just ended by itself
        stopped += 1
    dispatcher_ring()
    return stopped


def _cancel(job: Job, *, by: str, now: datetime) -> None:
    reason = because("job_cancelled", by=by or "its owner")
    while True:
        job.refresh_from_db()
        held = job.attempts.filter(state__in=OPEN).values_list("pk", flat=True).first()
        # The dispatch first, then the job: the order in which everybody locks them.
        dispatch = dispatch_locked(held) if held else None
        if dispatch is None or dispatch.state in OPEN:
            break
        # It ended while its lock was waited for: its job has moved on, and may have another one by now.
    if dispatch is None:
        if job.state not in Job.TABLE.final:
            advance(job, JobState.CANCELLED, reason=reason, by=by, now=now, ended_at=now)
            dispatcher_ring()  # jobs may come after it
        return
    asked = Job.objects.filter(pk=job.pk, cancel_requested_at__isnull=True)
    if asked.update(cancel_requested_at=now, cancel_requested_by=by):
        event_add(job, "job_cancel_asked", reason=reason, by=by, now=now)
    dispatch_cancel(dispatch, reason=reason, by=by, now=now)
