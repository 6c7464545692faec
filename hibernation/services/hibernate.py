"""Starting, stopping and ending a hibernation."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.utils import timezone

from core import chains
from core.chain_states import ChainState
from core.errors import DomainError, TooSoon, TransitionRefused
from core.models import Chain
from core.reasons import Reason, because
from core.transitions import advance
from hibernation.models import Box, Instance
from hibernation.services.boxes import worker_locked
from hibernation.services.obstacles import obstacle
from hibernation.states import LIVE, InstanceState
from pool.services import workers

KIND = "hibernate"
FALLEN_ASLEEP_S = 5.0
"""How soon a box whose workspace is safe is seen to be gone, as a rule."""


class FallingAsleep(TooSoon):
    """Its copy is verified and its box is going: this hibernation cannot be taken back, but it can be woken in a moment."""

    status = 409
    code = "falling_asleep"

    def __init__(self, instance_ref: str) -> None:
        super().__init__(
            f"instance {instance_ref} is past the point of return: its verified copy is kept and its box is going",
            retry_after_s=FALLEN_ASLEEP_S,
            hint="wait until it is hibernated, then ask again",
        )


def instance_hibernate(
    instance: Instance,
    *,
    reason: Reason,
    by: str = "",
    now: datetime | None = None,
    asked: bool | None = None,
) -> Chain:
    """Begin to put an instance to sleep: its state moves and its chain exists in one transaction.

    asked: a person wants it now, so that a GPU that is busy does not stop it. A job or a hold still does: DomainError,
    with its reason, here, or later an end of the chain that leaves the instance running.
    Raises TransitionRefused where it is not awake, or where its last restore was incomplete.
    """
    now = now or timezone.now()
    asked = bool(by) if asked is None else asked
    if instance.restore_incomplete:
        raise TransitionRefused(
            f"instance {instance.pk} is not snapshotted: its last restore was incomplete",
            hint="wake it again from its last verified generation",
            code="restore_incomplete",
        )
    with transaction.atomic():
        worker = worker_locked(instance)
        in_the_way = obstacle(instance, now=now) if asked else None
        if in_the_way is not None and Instance.TABLE.allows(instance.state, InstanceState.HIBERNATING):
            raise DomainError(
                f"instance {instance.pk} is not put to sleep: {in_the_way}",
                hint="wait for the work to end, or lift the hold (keep awake for 0 minutes)",
                code=in_the_way.code,
            )
        advance(instance, InstanceState.HIBERNATING, reason=reason, by=by, now=now, idle_due_at=None)
        if worker is not None:
            workers.worker_slots_set(worker, 0)
        return chains.chain_start(
            KIND,
            subject_type=Instance.SUBJECT,
            subject_id=instance.pk,
            owner_id=instance.owner_id,
            reason=reason,
            by=by,
            now=now,
            data={"asked": asked, "epoch": instance.epoch},
        )


def hibernation_stop(
    instance: Instance, *, by: str, reason: Reason | None = None, now: datetime | None = None
) -> Chain:
    """Stop a hibernation while its box is still untouched, and return the chain that was stopped.

    Raises TransitionRefused where it is not hibernating, FallingAsleep once its box has been let go.
    """
    chain = chains.chain_active(subject_type=Instance.SUBJECT, subject_id=instance.pk)
    if chain is None or chain.kind != KIND:
        raise TransitionRefused(f"instance {instance.pk} is not hibernating", hint="read it again")
    chain = chains.chain_stop(
        chain, ChainState.ABORTED, reason=reason or because("asked", by=by), by=by, now=now
    )
    instance.refresh_from_db()
    return chain


def untouched(chain: Chain) -> None:
    """Raises FallingAsleep once the box of the chain's instance has been let go. For chains that end in a destroy."""
    if not Box.objects.filter(instance=chain.subject_id, state__in=LIVE).exists():
        raise FallingAsleep(chain.subject_id)


def back_to_running(instance: Instance, *, reason: Reason, now: datetime) -> None:
    """The box was not touched: it runs on, takes jobs again, and its idle window starts anew."""
    worker = worker_locked(instance)
    if instance.state != InstanceState.HIBERNATING:
        return
    advance(
        instance,
        InstanceState.RUNNING,
        reason=reason,
        by=str(reason.params.get("by", "")),
        now=now,
        last_active_at=now,
        idle_since=None,
        idle_due_at=None,
    )
    if worker is not None:
        workers.worker_undrain(worker)
        workers.worker_slots_set(worker, 1)
