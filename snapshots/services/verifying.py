"""Seeing with our own eyes that a generation can be restored. Only a verified one lets a box go."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime

from django.utils import timezone

from core.errors import Busy
from core.reasons import Reason, because
from core.transitions import advance
from snapshots.engine.errors import Cancelled, SnapshotDamaged
from snapshots.engine.store.base import StoreBusy, StoreError
from snapshots.engine.verify import Verified, verify
from snapshots.models import Pack, Snapshot
from snapshots.services.owners import key_bytes, owner_key
from snapshots.services.store import store
from snapshots.states import SnapshotState


def snapshot_verify(
    snapshot: Snapshot,
    *,
    share: float = 0.02,
    now: datetime | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> bool:
    """Check a committed snapshot against the store and mark it verified, or failed. True: it is verified.

    Every pack is asked for (length, hash), the manifest decoded, every chunk's place proved, and a `share` of the
    blocks read back and hashed. Busy where the store could not be asked, or `cancelled` said that nobody wants to know
    any more: that is no verdict. Asking again for a verified one costs nothing.
    """
    if snapshot.state == SnapshotState.VERIFIED:
        return True
    if snapshot.state != SnapshotState.COMMITTED:
        return False
    proof = _look(snapshot, share=share, cancelled=cancelled)
    now = now or timezone.now()
    if isinstance(proof, SnapshotDamaged):
        advance(snapshot, SnapshotState.FAILED, reason=_damage(proof), now=now)
        return False
    advance(
        snapshot,
        SnapshotState.VERIFIED,
        reason=because(
            "snapshot_verified", packs=proof.packs, blocks=proof.blocks, blocks_read=proof.blocks_read
        ),
        now=now,
        verified_at=now,
        checked_at=now,
        data={"bytes_read": proof.bytes_read, "referenced_bytes": proof.referenced_bytes},
    )
    Pack.objects.filter(snapshot=snapshot).update(verified_at=now)
    return True


def snapshot_recheck(snapshot: Snapshot, *, share: float = 0.0, now: datetime | None = None) -> bool:
    """Ask the store once more for a generation that was verified before. False: it is damaged now, and marked so."""
    if snapshot.state not in (SnapshotState.VERIFIED, SnapshotState.DAMAGED):
        return False
    proof = _look(snapshot, share=share)
    now = now or timezone.now()
    if isinstance(proof, SnapshotDamaged):
        if snapshot.state == SnapshotState.VERIFIED:
            advance(snapshot, SnapshotState.DAMAGED, reason=_damage(proof), now=now, checked_at=now)
        return False
    if snapshot.state == SnapshotState.DAMAGED:
        reason = because("snapshot_whole_again", packs=proof.packs)
        advance(snapshot, SnapshotState.VERIFIED, reason=reason, now=now, checked_at=now)
    else:
        Snapshot.objects.filter(pk=snapshot.pk).update(checked_at=now)
    return True


def _look(
    snapshot: Snapshot, *, share: float, cancelled: Callable[[], bool] | None = None
) -> Verified | SnapshotDamaged:
    keys = owner_key(snapshot.owner)
    try:
        proof = verify(
            store(),
            root_key=snapshot.root_key,
            owner_key=key_bytes(keys),
            owner_id=keys.storage_id,
            expected_root_sha256=snapshot.root_sha256,
            sample=share,
            seed=int.from_bytes(hashlib.sha256(snapshot.pk.encode()).digest()[:4], "big"),
            cancelled=cancelled,
        )
    except SnapshotDamaged as damage:
        return damage
    except Cancelled as error:
        raise Busy(f"the check of {snapshot.pk} was stopped", retry_after_s=1) from error
    except StoreBusy as error:
        raise Busy(
            f"the store could not be asked: {error}", retry_after_s=error.retry_after_s or 10
        ) from error
    except StoreError as error:
        raise Busy(f"the store refused to be asked: {error}", retry_after_s=60) from error
    if (proof.content_id, proof.files, proof.logical_bytes) != (
        snapshot.content_id,
        snapshot.files,
        snapshot.logical_bytes,
    ):
        return SnapshotDamaged(["the manifest in the store is not the one that the agent committed"])
    return proof


def _damage(error: SnapshotDamaged) -> Reason:
    return because("snapshot_not_whole", problems=len(error.problems), first=error.problems[0][:300])
