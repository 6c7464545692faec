"""Deferred jobs: queued when their time has come, or when the jobs before them have ended; cancelled when that cannot be.

Called by each run of the dispatcher. Two at once are safe: every move is guarded, and what a killed one leaves undone
is found again, because a job's end counts as told only at the very end.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, QuerySet

from core.reasons import because
from core.transitions import advance_many
from pool.models import Job, JobDependency
from pool.services.bell import dispatcher_ring
from pool.states import JobState

TOLD_AT_ONCE = 200
"""Ended jobs whose dependants are moved together."""
MOVED_AT_ONCE = 1_000
ROUNDS = 50
"""Of TOLD_AT_ONCE in one run. A chain of jobs that is cancelled takes one for each link; the next run goes on."""
CULPRITS_AT_ONCE = 200
"""Jobs in one run for which others are cancelled: each is their reason, and takes a statement of its own."""


def deferred_release(*, now: datetime) -> int:
    """Move every deferred job whose wait is over; returns how many were moved."""
    moved = _due(now=now)
    culprits = 0
    for _ in range(ROUNDS):
        ended = list(
            Job.objects.filter(has_dependants=True, ended_at__isnull=False)
            .order_by("ended_at")
            .only("pk", "state", "name")[:TOLD_AT_ONCE]
        )
        if not ended:
            break
        while culprits < CULPRITS_AT_ONCE and (lost := _cancel_after_one(ended, now=now)) is not None:
            moved += lost
            culprits += 1
        if culprits >= CULPRITS_AT_ONCE:
            dispatcher_ring()  # these have not been told: the next run begins with them
            break
        moved += _follow(ended, now=now)
    return moved


def _due(*, now: datetime) -> int:
    due = Job.objects.filter(state=JobState.DEFERRED, not_before__lte=now)
    moved = 0
    # The number of the retry is part of the reason: one statement for all that have the same.
    for number in set(due.order_by().values_list("retries", flat=True).distinct()):
        moved += _all(
            due.filter(retries=number),
            JobState.QUEUED,
            reason=because("job_retry_due", number=number),
            now=now,
            not_before=None,
        )
    return moved


def _cancel_after_one(ended: Sequence[Job], *, now: datetime) -> int | None:
    """Cancel what comes after one of these that has not succeeded; returns how many, None where nothing is left to cancel.

    What comes after a whole array that was cancelled goes with the first of its jobs: the others are not asked for.
    """
    failed = {job.pk: job for job in ended if job.state != JobState.SUCCEEDED}
    lost = JobDependency.objects.filter(
        on__in=list(failed), job__state=JobState.DEFERRED, job__after_policy=Job.After.SUCCEEDED
    )
    culprit = lost.values_list("on_id", flat=True).first() if failed else None
    if culprit is None:
        return None
    after = JobDependency.objects.filter(on=culprit).values("job_id")
    reason = because("job_dependency_failed", job=culprit, state=failed[culprit].state)
    rows = Job.objects.filter(pk__in=after, after_policy=Job.After.SUCCEEDED)
    return _all(rows, JobState.CANCELLED, reason=reason, now=now, ended_at=now)


def _follow(rows: Sequence[Job], *, now: datetime) -> int:
    """Queue what comes after these jobs, then note that it was told. Each statement commits on its own, in this order."""
    ids = [job.pk for job in rows]
    JobDependency.objects.filter(on__in=ids, settled=False).update(settled=True)
    # Asked after the write: of two runs that settle a job's last two, the later one sees both.
    open_ = JobDependency.objects.filter(job=OuterRef("pk"), settled=False)
    after = JobDependency.objects.filter(on__in=ids).values("job_id")
    ready = Job.objects.filter(~Exists(open_), pk__in=after, not_before=None)
    moved = _all(ready, JobState.QUEUED, reason=because("job_after_over"), now=now)
    Job.objects.filter(pk__in=ids).update(has_dependants=False)
    return moved


def _all(rows: QuerySet[Job], to: JobState, **changes: Any) -> int:
    moved = 0
    while (
        step := advance_many(rows, to, source=JobState.DEFERRED, at_most=MOVED_AT_ONCE, **changes)
    ) == MOVED_AT_ONCE:
        moved += step
    return moved + step
