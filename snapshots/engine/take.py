"""Take a snapshot: scan, read, pack, upload, and last of all the root."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from snapshots.engine import statindex
from snapshots.engine.beneath import FOLDER_FLAGS
from snapshots.engine.errors import ManifestRefused, SnapshotRefused
from snapshots.engine.ignore import LeftOut
from snapshots.engine.keys import OwnerKey, root_key
from snapshots.engine.limits import DEFAULT_EFFORT, DEFAULT_LIMITS, Effort, Limits
from snapshots.engine.manifest import Manifest
from snapshots.engine.manifest_write import Snapshot, Written, write_manifest
from snapshots.engine.packing import Packer
from snapshots.engine.progress import Control, IsCancelled, OnProgress
from snapshots.engine.remote.base import ObjectPlan, Remote
from snapshots.engine.rounds import Older, TreeRead, read_tree
from snapshots.engine.statindex import rows_of
from snapshots.engine.upload import Uploader

log = logging.getLogger(__name__)


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
    left_out: tuple[LeftOut, ...] = ()


def take(
    source: str | os.PathLike[str],
    *,
    remote: Remote,
    owner_key: bytes,
    owner_id: str,
    snapshot_id: str,
    parent: Manifest | None = None,
    stat_index: Path | None = None,
    encrypt: bool = False,
    keep_changing: bool = False,
    ignore: Iterable[bytes] | None = None,
    writer: str = "dormouse",
    progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
    limits: Limits = DEFAULT_LIMITS,
    effort: Effort = DEFAULT_EFFORT,
    clock_ns: Callable[[], int] = time.time_ns,
) -> Taken:
    """Copy the tree below `source` into the store as snapshot `snapshot_id` of `owner_id`.

    parent: an earlier snapshot of the same owner (manifest.load_manifest); what its packs hold is not uploaded again.
    stat_index: a file beside the workspace, which take and restore write: files that are as they were in the parent are not
    even read, and changed ones are stored as deltas against older siblings where that pays.
    ignore: rules for what is left out (ignore.CACHES, or none of them), to which the workspace's own .dormouseignore adds. None:
    nothing is left out, and that file is one like any other.
    keep_changing: a file that is written all the time is kept as the parent has it, or left out where it has none, with a
    warning; never half. Without it such a file is FileChanging. For a tree that somebody works in while it is taken.
    encrypt: contents, names and manifest. Nothing of a parent that is not encrypted is used then: the take is a full one.
    Raises FileChanging, FileUnreadable or SnapshotRefused (each names the file), Cancelled, and the remote's StoreError.
    No root was written then, and what was uploaded is unreferenced: retention removes it. (Only a StoreError from sending the
    root itself leaves open whether it arrived; such a snapshot was never announced and is never verified.)
    """
    began = time.monotonic()
    key = OwnerKey(owner_key)
    root_key(owner_id, snapshot_id)  # refuses malformed ids before any work is done
    if parent is not None and parent.root.owner_id != owner_id:
        raise ManifestRefused(
            f"the parent belongs to owner {parent.root.owner_id}, not {owner_id}: nothing may be shared"
        )
    if parent is not None and encrypt and not parent.is_encrypted:
        log.info("snapshot=%s taken whole: its parent is not encrypted", snapshot_id)
        parent = None
    control = Control(progress, cancelled)
    created_ns = clock_ns()
    index = None
    if stat_index is not None and parent is not None:
        index = statindex.load(stat_index, root_sha256=parent.root_sha256, owner_key=key)
    with Uploader(remote, control, effort) as uploader:
        packer = Packer(
            uploader,
            owner_id=owner_id,
            parent=parent,
            pack_bytes=effort.pack_bytes,
            cipher=key.cipher if encrypt else None,
        )
        try:
            tree = read_tree(
                source,
                packer=packer,
                owner_key=key,
                control=control,
                effort=effort,
                clock_ns=clock_ns,
                index=index,
                ignore=ignore,
                older=_older(parent) if keep_changing else None,
            )
            packs = packer.finish()
            control.check()
            uploader.join()
            control.phase("manifest")
            encoded = [entry for entry, _ in tree.entries]
            same_files = parent is not None and tree.known_files == parent.root.totals.files
            snapshot = Snapshot(
                owner_id=owner_id,
                snapshot_id=snapshot_id,
                parent=parent,
                created_ns=created_ns,
                writer=writer,
                top=tree.top,
                entries=encoded,
                packs=packs,
                same_files=same_files,
                encrypted=encrypt,
            )
            written = write_manifest(snapshot, owner_key=key, uploader=uploader, limits=limits)
        except ManifestRefused as error:
            raise SnapshotRefused(b"", f"this tree is beyond what a snapshot can hold: {error}") from error
    if stat_index is not None:
        _keep_index(stat_index, source, tree, written, key)
    control.finish()
    totals = written.root.totals
    taken = Taken(
        root_key=written.plan.key,
        root_sha256=written.plan.sha256,
        root_length=written.plan.length,
        content_id=written.root.content_id.hex(),
        entries=totals.entries,
        files=totals.files,
        logical_bytes=totals.logical_bytes,
        stored_bytes=sum(plan.length for plan in written.objects),
        referenced_bytes=totals.stored_bytes,
        new_packs=len(packs),
        new_objects=written.objects,
        left_out=tuple(tree.left_out),
        warnings=tuple(tree.warnings),
        seconds=time.monotonic() - began,
    )
    log.info(
        "snapshot=%s taken entries=%d logical_bytes=%d stored_bytes=%d new_packs=%d in %.1f s",
        snapshot_id, taken.entries, taken.logical_bytes, taken.stored_bytes, taken.new_packs, taken.seconds,
    )  # fmt: skip
    return taken


def _older(parent: Manifest | None) -> Older:
    return (lambda _path: None) if parent is None else parent.find


def _keep_index(
    path: Path, source: str | os.PathLike[str], tree: TreeRead, written: Written, key: OwnerKey
) -> None:
    fd = os.open(source, FOLDER_FLAGS & ~os.O_NOFOLLOW)
    try:
        rows = rows_of(tree.entries, looked_at_ns=tree.looked_at_ns, mapped=True, root_fd=fd)
        statindex.save(path, root_sha256=written.plan.sha256, rows=rows, owner_key=key)
    finally:
        os.close(fd)
