"""Take a snapshot: scan, read, pack, upload, and last of all the root."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from snapshots.engine.beneath import FOLDER_FLAGS, Beneath
from snapshots.engine.entry import DEVICES, Entry, Kind
from snapshots.engine.errors import FileChanging, FileUnreadable, ManifestRefused, SnapshotRefused, show
from snapshots.engine.keys import OwnerKey, root_key
from snapshots.engine.limits import DEFAULT_EFFORT, DEFAULT_LIMITS, Effort, Limits
from snapshots.engine.manifest import Manifest
from snapshots.engine.manifest_write import Snapshot, write_manifest
from snapshots.engine.packing import Packer
from snapshots.engine.parallel import TaskPool
from snapshots.engine.progress import Control, IsCancelled, OnProgress
from snapshots.engine.reading import Reader
from snapshots.engine.remote.base import ObjectPlan, Remote
from snapshots.engine.scan import Identity, Node, Tree, changed_folder, entry_of, scan, why_unreadable
from snapshots.engine.upload import Uploader

log = logging.getLogger(__name__)
WARNINGS_MAX = 100


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
    control = Control(progress, cancelled)
    warnings: list[str] = []
    created_ns = clock_ns()
    with Uploader(remote, control, effort) as uploader:
        known = None if parent is None else parent.index
        packer = Packer(uploader, owner_id=owner_id, known=known, pack_bytes=effort.pack_bytes)
        top, entries = _read_tree(source, packer, key, control, effort, clock_ns, warnings)
        packs = packer.finish()
        control.check()
        uploader.join()
        control.phase("manifest")
        snapshot = Snapshot(owner_id, snapshot_id, parent, created_ns, writer, top, entries, packs)
        try:
            written = write_manifest(snapshot, owner_key=key, uploader=uploader, limits=limits)
        except ManifestRefused as error:
            raise SnapshotRefused(b"", f"this tree is beyond what a snapshot can hold: {error}") from error
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
        warnings=tuple(warnings),
        seconds=time.monotonic() - began,
    )
    log.info(
        "snapshot=%s taken entries=%d logical_bytes=%d stored_bytes=%d new_packs=%d in %.1f s",
        snapshot_id, taken.entries, taken.logical_bytes, taken.stored_bytes, taken.new_packs, taken.seconds,
    )  # fmt: skip
    return taken


def _read_tree(
    source: str | os.PathLike[str],
    packer: Packer,
    key: OwnerKey,
    control: Control,
    effort: Effort,
    clock_ns: Callable[[], int],
    warnings: list[str],
) -> tuple[Entry, list[Entry]]:
    """Every file read into the packer, and the entries. Looks again until nothing was moved, made or removed meanwhile."""
    try:
        root_fd = os.open(source, FOLDER_FLAGS & ~os.O_NOFOLLOW)
    except OSError as error:
        raise FileUnreadable(b"", f"{os.fspath(source)!r} {why_unreadable(error)}") from error
    vanished: set[bytes] = set()
    culprit = b""
    try:
        with TaskPool(effort.workers, control) as pool:
            reader: Reader | None = None
            for _ in range(effort.rounds):
                # A fresh Beneath each round: folders kept open may have been moved.
                with Beneath(root_fd) as root:
                    control.phase("scan")
                    tree = scan(root, control)
                    known = {} if reader is None else reader.readings
                    reader = Reader(
                        root,
                        packer=packer,
                        pool=pool,
                        owner_key=key,
                        control=control,
                        effort=effort,
                        clock_ns=clock_ns,
                    )
                    reader.readings.update(known)
                    firsts = _first_names(tree)
                    todo = [node for node in firsts.values() if not _is_read(node, reader)]
                    control.phase(
                        "read", bytes_total=sum(node.facts.st_size for node in todo), files_total=len(todo)
                    )
                    reader.read(todo)
                    pool.join()
                    gone = tree.vanished + reader.vanished
                    vanished.update(gone)
                    changed = changed_folder(root, tree)
                    stable = (
                        not gone
                        and changed is None
                        and all(_same_inode(node, reader) for node in firsts.values())
                    )
                    if stable:
                        warnings += _warnings(tree, vanished)
                        return entry_of(tree.top), _entries(tree, firsts, reader)
                    culprit = changed if changed is not None else (gone or [b""])[0]
                control.pause(effort.retry_pause_s)
    finally:
        os.close(root_fd)
    raise FileChanging(
        culprit,
        f"files were made, moved or removed each of the {effort.rounds} times the workspace was read: stop the program that does it",
    )


def _first_names(tree: Tree) -> dict[tuple[int, int], Node]:
    """By inode, the first name of every file: further names are hard links to it."""
    firsts: dict[tuple[int, int], Node] = {}
    for node in tree.nodes:
        if node.kind is Kind.FILE:
            firsts.setdefault(node.inode, node)
    return firsts


def _is_read(node: Node, reader: Reader) -> bool:
    reading = reader.readings.get(node.path)
    return reading is not None and reading.identity == Identity.of(node.facts)


def _same_inode(node: Node, reader: Reader) -> bool:
    reading = reader.readings.get(node.path)
    return reading is not None and (reading.facts.st_dev, reading.facts.st_ino) == node.inode


def _entries(tree: Tree, firsts: dict[tuple[int, int], Node], reader: Reader) -> list[Entry]:
    """In path order. Metadata of files are those that were true while the bytes were read."""
    entries = []
    links: dict[tuple[int, int], bytes] = {inode: node.path for inode, node in firsts.items()}
    for node in tree.nodes:
        if node.kind is Kind.FOLDER:
            entries.append(entry_of(node))
            continue
        first = links.setdefault(node.inode, node.path) if node.facts.st_nlink > 1 else node.path
        if first != node.path:
            entries.append(entry_of(node)._replace(kind=Kind.HARD_LINK, target=first, xattrs=(), device=None))
        elif node.kind is Kind.FILE:
            reading = reader.readings[node.path]
            entry = entry_of(node._replace(facts=reading.facts, xattrs=reading.xattrs))
            entries.append(entry._replace(size=reading.facts.st_size, extents=reading.extents))
        else:
            entries.append(entry_of(node))
    return entries


def _warnings(tree: Tree, vanished: set[bytes]) -> list[str]:
    present = {node.path for node in tree.nodes}
    gone = sorted(vanished - present)
    found = [f"{show(path)}: vanished while the snapshot was taken and is not in it" for path in gone]
    for node in tree.nodes:
        if node.kind is Kind.SOCKET or node.kind in DEVICES:
            found.append(
                f"{show(node.path)}: a {node.kind.name.lower().replace('_', ' ')} is noted, not kept"
            )
    if len(found) > WARNINGS_MAX:
        found[WARNINGS_MAX:] = [f"and {len(found) - WARNINGS_MAX} more of this kind"]
    return found
