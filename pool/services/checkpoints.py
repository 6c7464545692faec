"""Checkpoints of jobs, as rows: generations of a workspace that is a job's working directory (docs/design/checkpoints.md).

A checkpoint is a snapshot whose `workspace_ref` is the job and whose `epoch` is the attempt that took it. What agents ask
for is in `checkpointing`.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, QuerySet

from agent import wire
from core.chains import chain_active, chain_start
from core.reasons import because
from core.ticks import step_each
from pool.models import Dispatch, Job
from pool.states import DispatchState, JobState
from snapshots.models import Snapshot
from snapshots.services.deleting import snapshots_trim
from snapshots.services.taking import COMMITTED, restore_forbid, snapshot_fail
from snapshots.states import SnapshotState

log = logging.getLogger(__name__)

CHAIN = "checkpoint"
"""Kind of the chain that checks one (pool/chains/checkpoint.py)."""

KEPT = 2
"""Verified generations of a job that has not ended: should the newest turn out to be damaged, there is another."""

TRIMMED_AT_ONCE = 200
"""Jobs in one run of the tick: the next is a minute away."""

RETENTION = "retention"
"""Who lets go what nobody needs any more."""

WHOLE = (SnapshotState.VERIFIED, SnapshotState.DAMAGED)
"""States of a generation that was verified once and has not been let go."""


def checkpoints_of(job: Job | str) -> list[Snapshot]:
    """All that were asked for and not let go, the newest first."""
    rows = Snapshot.objects.filter(workspace_ref=job if isinstance(job, str) else job.pk)
    return list(rows.exclude(state=SnapshotState.DELETED).order_by("-generation"))


def checkpoint_newest(job_id: str) -> Snapshot | None:
    """The newest that is committed or verified: what the next attempt goes on from once it is verified."""
    rows = Snapshot.objects.filter(workspace_ref=job_id, state__in=COMMITTED)
    return rows.select_related("owner").order_by("-generation").first()


def checkpoint_check(snapshot: Snapshot, *, now: datetime) -> None:
    """Have it looked at in the store: one that is committed is verified or failed, one that was verified is read whole.

    Call it in a transaction. One that is being looked at already is left to that.
    """
    if chain_active(subject_type=Snapshot.SUBJECT, subject_id=snapshot.pk) is not None:
        return
    try:
        with transaction.atomic():
            chain_start(
                CHAIN,
                subject_type=Snapshot.SUBJECT,
                subject_id=snapshot.pk,
                owner_id=snapshot.owner_id,
                reason=because("checkpoint_check", generation=snapshot.generation),
                now=now,
            )
    except IntegrityError:
        log.info("snapshot=%s is being checked already", snapshot.pk)


def is_checked(snapshot: Snapshot) -> bool:
    """Whether nobody is looking at it: what its state says is the last word."""
    return chain_active(subject_type=Snapshot.SUBJECT, subject_id=snapshot.pk) is None


def attempt_closed(dispatch: Dispatch, *, now: datetime) -> None:
    """An attempt is over: whatever it was still taking is no checkpoint, and it reads none any more.

    Call it in the transaction that ended it. From its commit on no report of that attempt can commit anything.
    """
    if dispatch.job is None or dispatch.job.checkpoint_every_s is None:
        return
    taking_fail(dispatch, error="its attempt was over before it was complete", now=now)
    if dispatch.ref:
        restore_forbid(worker_ref=dispatch.worker_id, snapshot_id=dispatch.ref)
        if dispatch.result.get("restore_failed") == dispatch.ref:
            _doubt(dispatch.ref, now=now)


def taking_fail(dispatch: Dispatch, *, error: str, now: datetime, but: str = "") -> None:
    """What this attempt has begun and not committed will never be finished; but for the one with that key."""
    begun = Snapshot.objects.select_for_update().filter(
        workspace_ref=dispatch.job_id, epoch=dispatch.number, state=SnapshotState.TAKING
    )
    for row in begun.exclude(key=but):
        snapshot_fail(row, error=error, now=now)


def attempts_counted(attempts: QuerySet[Dispatch]) -> QuerySet[Dispatch]:
    """Those that a worker had begun and not ended by themselves. One whose worker's session ended before its command was
    started brought the job nowhere, and that was not the job's doing."""
    ends = {f"result__{wire.WORKER_ENDS}": True, f"result__{wire.NOT_STARTED}": True}
    begun = attempts.filter(claimed_at__isnull=False).exclude(state=DispatchState.FAILED)
    return begun.exclude(pk__in=attempts.filter(state=DispatchState.INTERRUPTED, **ends).values("pk"))


def attempts_fruitless(job: Job) -> int:
    """Attempts that were begun since the last one that left a checkpoint; all that were begun, where there is none.

    A job that gets on may take any number of sessions. Only attempts that brought it nowhere use it up.
    """
    begun = attempts_counted(job.attempts.all())
    if job.checkpoint_every_s is not None:
        newest = checkpoint_newest(job.pk)
        begun = begun.filter(number__gt=newest.epoch if newest is not None else 0)
    return begun.count()


def checkpoint_needed(snapshot: Snapshot) -> str | None:
    """Who still needs a generation, in words: the job that would go on from it. Asked before one is let go."""
    job = Job.objects.filter(pk=snapshot.workspace_ref, checkpoint_every_s__isnull=False).first()
    if job is None or job.state in Job.TABLE.final:
        return None
    verified = Snapshot.objects.filter(workspace_ref=job.pk, state=SnapshotState.VERIFIED)
    newest = verified.order_by("-generation").values_list("pk", flat=True).first()
    return f"job {job.pk} goes on from it" if newest == snapshot.pk else None


def checkpoints_trim(job: Job, *, now: datetime) -> int:
    """Let go what the job does not need: all but KEPT; all but the last once it has ended; the last after some days."""
    if job.state not in Job.TABLE.final:
        return snapshots_trim(job.pk, keep=KEPT, by=RETENTION, now=now)
    ended_at = job.ended_at or job.state_since
    over = now - ended_at >= timedelta(days=settings.CHECKPOINT_KEEP_DAYS)
    return snapshots_trim(job.pk, keep=0 if over else 1, by=RETENTION, now=now)


def checkpoints_tick(*, now: datetime) -> int:
    """Let checkpoints of ended jobs go; how many jobs were looked at. Jobs with nothing to let go are left out."""
    theirs = Snapshot.objects.filter(workspace_ref=OuterRef("pk"), state__in=WHOLE, pinned=False)
    newer = Snapshot.objects.filter(
        workspace_ref=OuterRef("workspace_ref"),
        state=SnapshotState.VERIFIED,
        generation__gt=OuterRef("generation"),
    )
    cutoff = now - timedelta(days=settings.CHECKPOINT_KEEP_DAYS)
    ended = Job.objects.filter(checkpoint_every_s__isnull=False, ended_at__isnull=False)
    ended = ended.filter(state__in=(JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED))
    old = ended.filter(Exists(theirs), ended_at__lte=cutoff).order_by("ended_at")
    superfluous = ended.filter(Exists(theirs.filter(Exists(newer))), ended_at__gt=cutoff).order_by("ended_at")
    jobs = [*old[:TRIMMED_AT_ONCE], *superfluous[:TRIMMED_AT_ONCE]]
    return step_each(lambda job: checkpoints_trim(job, now=now), jobs)


def _doubt(snapshot_id: str, *, now: datetime) -> None:
    """It could not be restored: read all of it before anybody tries again."""
    snapshot = Snapshot.objects.filter(pk=snapshot_id, state__in=WHOLE).first()
    if snapshot is not None:
        checkpoint_check(snapshot, now=now)
