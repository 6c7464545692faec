"""What agents ask about checkpoints: to take one, to give one up, and which to restore before the command starts."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.utils import timezone

from agent import wire
from core.agents import AgentIdentity
from core.errors import Busy, DomainError, Invalid
from pool.models import Dispatch
from pool.services.checkpoints import WHOLE, checkpoint_check, checkpoint_newest, is_checked, taking_fail
from pool.services.reports import dispatch_held
from snapshots.models import Snapshot
from snapshots.services.taking import restore_allow, snapshot_begin, snapshot_fail
from snapshots.states import SnapshotState

CHECK_AGAIN_S = 1.0


class CheckpointLost(DomainError):
    """There was one to go on from, and the store no longer holds it whole: beginning anew is for a person to decide."""

    code = wire.CHECKPOINT_LOST


def checkpoint_begin(
    *, identity: AgentIdentity, dispatch_id: str, post: wire.CheckpointPost, now: datetime | None = None
) -> Snapshot:
    """The job's next generation, to be taken by this attempt's worker. The same request again finds the same one.

    An earlier one of this attempt that was not committed has failed by that; one that arrives after a later one, by their
    numbers, is refused with Invalid and changes nothing. With post.error the one of that request is
    given up instead, with the reason. Raises NotFound, StandDown once the attempt is over, Invalid where the job keeps none.
    """
    now = now or timezone.now()
    with transaction.atomic():
        row = _of_keeping_job(identity, dispatch_id, fence=post.fence)
        key = _key(row, post)
        if post.error is None:
            _refuse_late(row, post, key=key)
            taking_fail(row, error="the agent has begun another one", now=now, but=key)
        snapshot = snapshot_begin(
            owner=row.job.owner,
            workspace_ref=row.job.pk,
            epoch=row.number,
            worker_ref=row.worker_id,
            worker_epoch=row.epoch,
            key=key,
            now=now,
        )
        if post.error is not None and snapshot.state == SnapshotState.TAKING:
            snapshot_fail(snapshot, error=post.error, now=now)
    return snapshot


def checkpoint_restore(
    *, identity: AgentIdentity, dispatch_id: str, fence: int, now: datetime | None = None
) -> wire.RestoreAnswer:
    """What this attempt goes on from: the newest checkpoint that is whole, which it may read from now on; or nothing.

    Raises Busy while the newest is being looked at: beginning from an older one would throw work away. CheckpointLost
    where all that there were are damaged.
    """
    now = now or timezone.now()
    with transaction.atomic():
        row = _of_keeping_job(identity, dispatch_id, fence=fence)
        newest = checkpoint_newest(row.job.pk)
        if newest is not None and newest.state == SnapshotState.COMMITTED:
            checkpoint_check(newest, now=now)
        elif newest is None:
            _nothing_lost(row)
            return wire.RestoreAnswer()
        elif is_checked(newest):
            restore_allow(newest, worker_ref=row.worker_id, worker_epoch=row.epoch)
            Dispatch.objects.filter(pk=row.pk).update(ref=newest.pk)
            return wire.RestoreAnswer(
                snapshot_id=newest.pk, content_id=newest.content_id, generation=newest.generation
            )
    raise Busy(
        f"checkpoint {newest.generation} of {row.job.pk} is being checked",
        retry_after_s=CHECK_AGAIN_S,
        hint="ask again",
    )


def _key(row: Dispatch, post: wire.CheckpointPost) -> str:
    number = "" if post.number is None else f"{post.number}:"
    return f"{row.pk}:{number}{post.request_id}"


def _refuse_late(row: Dispatch, post: wire.CheckpointPost, *, key: str) -> None:
    """The newest generation of an attempt has the largest number that was let through. The same request again is not late."""
    begun = Snapshot.objects.filter(workspace_ref=row.job_id, epoch=row.number).order_by("-generation")
    newest = begun.values_list("key", flat=True).first()
    if newest is None or newest == key or post.number is None:
        return
    _, _, rest = newest.partition(f"{row.pk}:")
    number = rest.partition(":")[0] if ":" in rest else ""
    if number.isdigit() and int(number) > post.number:
        raise Invalid("a later checkpoint has been begun", hint="leave this one")


def _of_keeping_job(identity: AgentIdentity, dispatch_id: str, *, fence: int) -> Dispatch:
    row = dispatch_held(identity, dispatch_id, fence=fence)
    if row.job is None or row.job.checkpoint_every_s is None:
        raise Invalid(f"dispatch {row.pk} keeps no checkpoints", hint="its work does not say `checkpoint`")
    return row


def _nothing_lost(row: Dispatch) -> None:
    damaged = Snapshot.objects.filter(workspace_ref=row.job_id, state__in=WHOLE).order_by("-generation")
    found = damaged.first()
    if found is not None:
        raise CheckpointLost(
            f"its checkpoint {found.generation} is damaged in the store, and there is no older one: {found.reason}",
            hint="submit it again to begin anew",
        )
