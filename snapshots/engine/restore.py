"""Restore a snapshot into an empty folder: complete, checked and at once, or not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass

from snapshots.engine.limits import DEFAULT_EFFORT, DEFAULT_LIMITS, Effort, Limits
from snapshots.engine.progress import IsCancelled, OnProgress
from snapshots.engine.remote import Remote


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A tree that is back under its name. content_id (hex) is computed from what was put on the disk.

    fetched_bytes came over the wire. warnings: what could not be as it was (owner ids, sockets, devices).
    """

    entries: int
    files: int
    logical_bytes: int
    fetched_bytes: int
    content_id: str
    warnings: tuple[str, ...]
    seconds: float


def restore(
    target: str | os.PathLike[str],
    *,
    remote: Remote,
    owner_key: bytes,
    root_key: str,
    expected_content_id: str | None = None,
    progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
    allow_devices: bool = False,
    allow_setuid: bool = True,
    limits: Limits = DEFAULT_LIMITS,
    effort: Effort = DEFAULT_EFFORT,
) -> Restored:
    """Make `target` (absent, or an empty folder) the tree of this snapshot.

    Raises RestoreRefused (nothing was changed), RestoreFailed, ManifestRefused, DataDamaged, Cancelled, StoreError;
    the target is then as it was, and the same call may be made again, also after a crash.
    """
    raise NotImplementedError
