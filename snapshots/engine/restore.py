"""Restore a snapshot into an empty folder: complete, checked and at once, or not at all."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from snapshots.engine import statindex
from snapshots.engine.beneath import Beneath
from snapshots.engine.entry import Entry, Kind, content_id
from snapshots.engine.errors import ManifestRefused, RestoreFailed, RestoreRefused
from snapshots.engine.keys import OwnerKey
from snapshots.engine.limits import DEFAULT_EFFORT, DEFAULT_LIMITS, Effort, Limits
from snapshots.engine.manifest import load_manifest
from snapshots.engine.progress import Control, IsCancelled, OnProgress
from snapshots.engine.remote.base import Remote
from snapshots.engine.restore_data import FileData
from snapshots.engine.restore_write import TreeWriter
from snapshots.engine.staging import Staging
from snapshots.engine.statindex import rows_of

log = logging.getLogger(__name__)
CHECK_EVERY = 256


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
    stat_index: Path | None = None,
    allow_devices: bool = False,
    allow_setuid: bool = True,
    limits: Limits = DEFAULT_LIMITS,
    effort: Effort = DEFAULT_EFFORT,
    clock_ns: Callable[[], int] = time.time_ns,
) -> Restored:
    """Make `target` (absent, or an empty folder) the tree of this snapshot.

    stat_index: a file beside the target, written so that the next take need not read everything again.

    Raises RestoreRefused (nothing was changed), RestoreFailed, ManifestRefused, DataDamaged, Cancelled, StoreError;
    the target is then as it was, and the same call may be made again, also after a crash.
    """
    began = time.monotonic()
    control = Control(progress, cancelled)
    control.phase("manifest")
    manifest = load_manifest(remote, root_key=root_key, owner_key=owner_key, limits=limits)
    root = manifest.root
    if expected_content_id is not None and root.content_id.hex() != expected_content_id:
        raise ManifestRefused(
            f"{root_key} has content {root.content_id.hex()[:16]}, not the expected {expected_content_id[:16]}"
        )
    entries = list(manifest.entries())
    control.check()
    staging = Staging(target, top_names=frozenset(os.fsdecode(e.path) for e in entries if b"/" not in e.path))
    try:
        _check_room(staging, entries)
        with Beneath(staging.fd) as beneath:
            writer = TreeWriter(beneath, allow_devices=allow_devices, allow_setuid=allow_setuid)
            job = FileData(
                writer, remote, manifest.index, OwnerKey(owner_key), root.owner_id, control, effort
            )
            control.phase("restore", bytes_total=root.totals.logical_bytes, files_total=root.totals.files)
            job.run(entries)
            control.phase("finish", files_total=len(entries))
            looked_at_ns = clock_ns()
            found = _finish(writer, entries, control)
            raws = [entry.encode() for entry, _ in found]
            as_found = (
                (writer.as_found(entry, raw, facts), facts)
                for (entry, facts), raw in zip(found, raws, strict=True)
            )
            rows = list(rows_of(as_found, looked_at_ns=looked_at_ns, mapped=False, root_fd=staging.fd))
        restored_id = content_id(root.top, raws, manifest.owner_key)
        if restored_id != root.content_id:
            raise ManifestRefused("the entries do not make the content id that the root names")
        control.check()
        staging.publish(lambda fd: writer.finish_open_folder(fd, root.top))
    except OSError as error:
        staging.abandon()
        raise RestoreFailed(_why(error, staging)) from error
    except BaseException:
        staging.abandon()
        raise
    if stat_index is not None:
        # Renaming moves the ctime of what is renamed: the top folder itself, or all that lies directly in a mount point.
        kept = rows if not staging.is_inside else [row for row in rows if b"/" in row.path]
        statindex.save(stat_index, root_sha256=manifest.root_sha256, rows=kept, owner_key=manifest.owner_key)
    control.finish()
    restored = Restored(
        entries=len(entries),
        files=root.totals.files,
        logical_bytes=root.totals.logical_bytes,
        fetched_bytes=job.fetched_bytes,
        content_id=restored_id.hex(),
        warnings=tuple(writer.warnings()),
        seconds=time.monotonic() - began,
    )
    log.info(
        "snapshot=%s restored entries=%d logical_bytes=%d fetched_bytes=%d in %.1f s",
        root.snapshot_id, restored.entries, restored.logical_bytes, restored.fetched_bytes, restored.seconds,
    )  # fmt: skip
    return restored


def _finish(
    writer: TreeWriter, entries: list[Entry], control: Control
) -> list[tuple[Entry, os.stat_result | None]]:
    """Links and special files once all bytes are written, folders' metadata from the inside out, a look at everything.

    Returns every entry in path order, with what is there now (None: left out by rule).
    """
    by_path = {entry.path: entry for entry in entries if entry.kind is not Kind.FOLDER}
    for entry in entries:
        if entry.kind not in (Kind.FILE, Kind.FOLDER, Kind.HARD_LINK):
            writer.make_special(entry)
    for entry in entries:
        if entry.kind is Kind.HARD_LINK:
            writer.make_hard_link(entry, by_path[entry.target])
    looks: dict[bytes, os.stat_result | None] = {}
    for number, entry in enumerate(entries):
        if number % CHECK_EVERY == 0:
            control.check()
            control.done(files=min(CHECK_EVERY, len(entries) - number))
        if entry.kind is not Kind.FOLDER:
            looks[entry.path] = writer.check(entry)
    for entry in reversed(entries):
        if entry.kind is Kind.FOLDER:
            looks[entry.path] = writer.finish_folder(entry)
    return [(entry, looks[entry.path]) for entry in entries]


def _check_room(staging: Staging, entries: list[Entry]) -> None:
    needed = sum(length for entry in entries for chunk_id, length in entry.extents if chunk_id is not None)
    free = staging.free_bytes()
    if free is not None and needed > free:
        raise RestoreRefused(
            f"{staging.target} needs {needed:,} bytes and its file system has {free:,} free: choose a larger disk"
        )


def _why(error: OSError, staging: Staging) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {staging.target} is full: choose a larger one; the snapshot is untouched"
    return f"writing below {staging.path} failed: {error.strerror or error}"
