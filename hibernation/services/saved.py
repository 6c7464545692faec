"""Telling a box's agent which generation holds its workspace, so that a box that is left alone may end itself."""

from __future__ import annotations

from hibernation.models import Instance
from pool.models import Account, Worker
from pool.services.workers import worker_saved
from snapshots.models import Snapshot
from snapshots.states import SnapshotState


def saved_tell(instance: Instance, generation: Snapshot) -> None:
    """The generation is verified, and of the box that the instance lives on now."""
    if instance.worker is not None and generation.epoch == instance.epoch == instance.worker.epoch:
        worker_saved(instance.worker, generation.pk)


def saved_take_back(account: Account) -> int:
    """What an agent was told to be saved and is not whole in the store any more, or was deleted, is saved no longer.

    How many were told so. Often: one query where nothing was told.
    """
    told = {
        worker.saved_ref: worker for worker in Worker.objects.filter(account=account).exclude(saved_ref="")
    }
    if not told:
        return 0
    whole = Snapshot.objects.filter(pk__in=told, state=SnapshotState.VERIFIED).values_list("pk", flat=True)
    gone = [worker for ref, worker in told.items() if ref not in set(whole)]
    for worker in gone:
        worker_saved(worker, "")
    return len(gone)
