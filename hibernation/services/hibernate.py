"""Starting, stopping and ending a hibernation."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.utils import timezone
from pool.services import workers

from core import chains
from core.chain_states import ChainState
from core.errors import NotFound, TransitionRefused
from core.models import Chain
from core.reasons import Reason, because
from core.transitions import advance
from hibernation.models import Instance
from hibernation.states import AWAKE, InstanceState

KIND = "hibernate"


def instance_hibernate(
    instance: Instance,
    *,
    reason: Reason,
    by: str = "",
    now: datetime | None = None,
    asked: bool | None = None,
) -> Chain:
    """Begin to put an instance to sleep: its state moves and its chain exists in one transaction.

    asked: a person wants it now, so that a GPU that is busy does not stop it (a job or a hold still does).
    Raises TransitionRefused where it is not awake, or where its last restore was incomplete.
    """
    now = now or timezone.now()
    if instance.restore_incomplete:
        raise TransitionRefused(
            f"instance {instance.pk} is not snapshotted: its last restore was incomplete",
            hint="wake it again from its last verified generation",
            code="restore_incomplete",
        )
    with transaction.atomic():
        advance(
            instance,
            InstanceState.HIBERNATING,
            reason=reason,
            by=by,
            now=now,
            idle_due_at=None,
        )
        if instance.worker is not None:
            workers.worker_slots_set(instance.worker, 0)
        return chains.chain_start(
            KIND,
            subject_type=Instance.SUBJECT,
            subject_id=instance.pk,
            owner_id=instance.owner_id,
            reason=reason,
            by=by,
            now=now,
            data={"asked": bool(by) if asked is None else asked, "epoch": instance.epoch},
        )


def hibernation_stop(instance: Instance, *, by: str, now: datetime | None = None) -> None:
    """A person stops a hibernation while the box is still untouched. TransitionRefused once it is being destroyed."""
    chain = chains.chain_active(subject_type=Instance.SUBJECT, subject_id=instance.pk)
    if chain is None or chain.kind != KIND:
        raise NotFound(f"instance {instance.pk} is not hibernating")
    if chain.step in ("destroy", "confirm"):
        raise TransitionRefused(
            f"instance {instance.pk} is past the point of return: its verified copy is kept and its box is going",
            hint="wait until it is hibernated, then wake it",
        )
    chains.chain_stop(chain, ChainState.ABORTED, reason=because("asked", by=by), by=by, now=now)


def back_to_running(instance: Instance, *, why: str, now: datetime) -> None:
    """The box was not touched: it runs on, takes jobs again, and its idle window starts anew."""
    if instance.state == InstanceState.HIBERNATING:
        advance(
            instance,
            InstanceState.RUNNING,
            reason=because("hibernation_stopped", why=why[:300]),
            now=now,
            last_active_at=now,
            idle_since=None,
            idle_due_at=None,
        )
    if instance.worker is not None and instance.state in AWAKE:
        workers.worker_undrain(instance.worker)
        workers.worker_slots_set(instance.worker, 1)
