"""Restore a snapshot into an empty folder: complete, checked and at once, or not at all."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from snapshots.engine.beneath import Beneath
from snapshots.engine.entry import Entry, Kind, content_id
from snapshots.engine.errors import DataDamaged, ManifestRefused, RestoreFailed, RestoreRefused, show
from snapshots.engine.fetching import Range, plan_ranges
from snapshots.engine.index import ChunkIndex
from snapshots.engine.keys import OwnerKey, pack_key
from snapshots.engine.limits import DEFAULT_EFFORT, DEFAULT_LIMITS, Effort, Limits
from snapshots.engine.manifest import load_manifest
from snapshots.engine.pack import BlockRecord, open_block
from snapshots.engine.parallel import ByteBudget, TaskPool
from snapshots.engine.progress import Control, IsCancelled, OnProgress
from snapshots.engine.remote.base import Remote
from snapshots.engine.restore_write import TreeWriter
from snapshots.engine.staging import Staging
from snapshots.engine.store.base import ObjectMissing

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
    allow_devices: bool = False,
    allow_setuid: bool = True,
    limits: Limits = DEFAULT_LIMITS,
    effort: Effort = DEFAULT_EFFORT,
) -> Restored:
    """Make `target` (absent, or an empty folder) the tree of this snapshot.

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
            job = _Job(writer, remote, manifest.index, OwnerKey(owner_key), root.owner_id, control, effort)
            control.phase("restore", bytes_total=root.totals.logical_bytes, files_total=root.totals.files)
            job.run(entries)
            control.phase("finish", files_total=len(entries))
            _finish(writer, entries, control)
        restored_id = content_id(root.top, entries, OwnerKey(owner_key))
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


class _Job:
    """The files' bytes: from the store, through decoding and checking, into their places."""

    def __init__(
        self,
        writer: TreeWriter,
        remote: Remote,
        index: ChunkIndex,
        owner_key: OwnerKey,
        owner_id: str,
        control: Control,
        effort: Effort,
    ) -> None:
        self.fetched_bytes = 0
        self._writer = writer
        self._remote = remote
        self._index = index
        self._key = owner_key
        self._owner_id = owner_id
        self._control = control
        self._effort = effort
        self._budget = ByteBudget(effort.memory_bytes, control)
        self._places: defaultdict[bytes, list[tuple[Entry, int]]] = defaultdict(list)
        self._large: list[Entry] = []
        self._lock = threading.Lock()

    def run(self, entries: Iterable[Entry]) -> None:
        """Folders, then files. Large files get their size at once and are filled in any order."""
        for number, entry in enumerate(entries):
            if number % CHECK_EVERY == 0:
                self._control.check()
            if entry.kind is Kind.FOLDER:
                self._writer.make_folder(entry)
            elif entry.kind is Kind.FILE:
                self._prepare(entry)
        with TaskPool(self._effort.streams, self._control) as pool:
            for part in plan_ranges(self._index, self._places):
                pool.submit(self._fetch, part)
            pool.join()
        for entry in self._large:
            self._writer.finish_file(entry)
            self._control.done(files=1)

    def _prepare(self, entry: Entry) -> None:
        """Make what needs no bytes, and note where every chunk goes."""
        if not entry.extents:
            self._writer.make_file(entry, memoryview(b""))
            self._control.done(files=1)
        elif not _is_one_chunk(entry):
            self._writer.make_large_file(entry)
            self._large.append(entry)
        at = 0
        for chunk_id, length in entry.extents:
            if chunk_id is None:
                self._control.done(bytes_=length)
            elif self._index.length(chunk_id) == length:
                self._places[chunk_id].append((entry, at))
            else:
                raise ManifestRefused(
                    f"{show(entry.path)} needs a chunk of {length} bytes that no pack of the snapshot has"
                )
            at += length

    def _fetch(self, part: Range) -> None:
        self._budget.acquire(part.length)
        try:
            key = pack_key(self._owner_id, part.pack.pack_id)
            data = memoryview(self._get(key, part.offset, part.length))
            for block in part.blocks:
                self._control.check()
                at = block.offset - part.offset
                self._place(key, block, data[at : at + block.span])
        finally:
            self._budget.release(part.length)

    def _get(self, key: str, offset: int, length: int) -> bytes:
        try:
            data = self._remote.get(key, offset=offset, length=length)
        except ObjectMissing:
            raise DataDamaged(f"{key} is missing from the store") from None
        with self._lock:
            self.fetched_bytes += len(data)
        return data

    def _place(self, key: str, block: BlockRecord, span: memoryview) -> None:
        wanted = frozenset(chunk.chunk_id for chunk in block.chunks() if chunk.chunk_id in self._places)
        try:
            chunks = list(open_block(block, span, self._key, wanted=wanted))
        except DataDamaged:
            log.warning("%s: the block at %d came damaged; asking once more", key, block.offset)
            again = memoryview(self._get(key, block.offset, block.span))
            try:
                chunks = list(open_block(block, again, self._key, wanted=wanted))
            except DataDamaged as error:
                raise DataDamaged(f"{key}, block at {block.offset}: {error}") from None
        for chunk, data in chunks:
            for entry, at in self._places[chunk.chunk_id]:
                if _is_one_chunk(entry):
                    self._writer.make_file(entry, data)
                    self._control.done(files=1, bytes_=len(data))
                else:
                    self._writer.write_part(entry, at, data)
                    self._control.done(bytes_=len(data))


def _is_one_chunk(entry: Entry) -> bool:
    """Such a file is made, written and finished in one go, when its chunk arrives."""
    return len(entry.extents) == 1 and entry.extents[0][0] is not None


def _finish(writer: TreeWriter, entries: list[Entry], control: Control) -> None:
    """Links and special files once all bytes are written, a look at everything, folders' metadata from the inside out."""
    by_path = {entry.path: entry for entry in entries if entry.kind is not Kind.FOLDER}
    for entry in entries:
        if entry.kind not in (Kind.FILE, Kind.FOLDER, Kind.HARD_LINK):
            writer.make_special(entry)
    for entry in entries:
        if entry.kind is Kind.HARD_LINK:
            writer.make_hard_link(entry, by_path[entry.target])
    for number, entry in enumerate(entries):
        if number % CHECK_EVERY == 0:
            control.check()
        if entry.kind is not Kind.FOLDER:
            writer.check(entry)
            control.done(files=1)
    for entry in reversed(entries):
        if entry.kind is Kind.FOLDER:
            writer.finish_folder(entry)
            control.done(files=1)


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
