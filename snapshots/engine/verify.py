"""Prove that a snapshot can be restored: every pack there, every chunk in one, a sample of blocks read back."""

from __future__ import annotations

from dataclasses import dataclass

from snapshots.engine.limits import DEFAULT_LIMITS, Limits
from snapshots.engine.progress import IsCancelled, OnProgress
from snapshots.engine.store.base import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was proved. blocks_read of blocks were read back, decoded and hashed; referenced_bytes are the packs' lengths."""

    snapshot_id: str
    parent_id: str | None
    content_id: str
    entries: int
    files: int
    logical_bytes: int
    referenced_bytes: int
    packs: int
    chunks: int
    blocks: int
    blocks_read: int
    bytes_read: int


def verify(
    store: Store,
    *,
    root_key: str,
    owner_key: bytes,
    owner_id: str,
    expected_root_sha256: str,
    sample: float = 0.01,
    sample_blocks_min: int = 16,
    seed: int = 0,
    streams: int = 16,
    progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Verified:
    """Read the root and segments, ask for every pack, check every chunk's place, read back a share of the blocks.

    sample: share of blocks from 0 to 1 (1 reads everything), but at least sample_blocks_min; `seed` chooses them.
    Raises SnapshotDamaged with the list of what is wrong, or StoreBusy and StoreRefused where the store could not be asked:
    that is no verdict, ask again.
    """
    raise NotImplementedError
