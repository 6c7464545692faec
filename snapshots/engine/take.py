"""Take a snapshot: scan, read, pack, upload, and last of all the root."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from snapshots.engine.limits import DEFAULT_EFFORT, DEFAULT_LIMITS, Effort, Limits
from snapshots.engine.manifest import Manifest
from snapshots.engine.progress import IsCancelled, OnProgress
from snapshots.engine.remote import ObjectPlan, Remote


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A snapshot whose root the store has acknowledged. It is not verified yet (verify.verify does that).

    sha256s and ids are hex. stored_bytes went up in this take; referenced_bytes is the size of all packs that the
    snapshot needs, older ones included. new_objects: everything this take uploaded, the root last.
    """

    root_key: str
    root_sha256: str
    root_length: int
    content_id: str
    entries: int
    files: int
    logical_bytes: int
    stored_bytes: int
    referenced_bytes: int
    new_packs: int
    new_objects: tuple[ObjectPlan, ...]
    warnings: tuple[str, ...]
    seconds: float


def take(
    source: str | os.PathLike[str],
    *,
    remote: Remote,
    owner_key: bytes,
    owner_id: str,
    snapshot_id: str,
    parent: Manifest | None = None,
    writer: str = "dormouse",
    progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
    limits: Limits = DEFAULT_LIMITS,
    effort: Effort = DEFAULT_EFFORT,
    clock_ns: Callable[[], int] = time.time_ns,
) -> Taken:
    """Copy the tree below `source` into the store as snapshot `snapshot_id` of `owner_id`.

    parent: an earlier snapshot of the same owner (manifest.load_manifest); what its packs hold is not uploaded again.
    Raises FileChanging, FileUnreadable or SnapshotRefused (each names the file), Cancelled, and the remote's StoreError.
    Whatever it raises, no root was written: what was uploaded is unreferenced and retention removes it.
    """
    raise NotImplementedError
