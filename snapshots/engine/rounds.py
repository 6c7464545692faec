"""Reading a whole tree: look through it, read it, look again, until nothing was moved, made or removed meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from snapshots.engine.beneath import FOLDER_FLAGS, Beneath
from snapshots.engine.entry import DEVICES, Entry, Kind
from snapshots.engine.errors import FileChanging, FileUnreadable, show
from snapshots.engine.keys import OwnerKey
from snapshots.engine.limits import Effort
from snapshots.engine.packing import Packer
from snapshots.engine.parallel import TaskPool
from snapshots.engine.progress import Control
from snapshots.engine.reading import Reader, Reading
from snapshots.engine.scan import Identity, Node, Tree, changed_folder, entry_of, scan, why_unreadable

WARNINGS_MAX = 100
Inode = tuple[int, int]


class TreeRead(NamedTuple):
    """Every entry, in path order, and what to tell about those that could not be kept."""

    top: Entry
    entries: list[Entry]
    warnings: list[str]


def read_tree(
    source: str | os.PathLike[str],
    *,
    packer: Packer,
    owner_key: OwnerKey,
    control: Control,
    effort: Effort,
    clock_ns: Callable[[], int],
) -> TreeRead:
    """Every file's bytes into the packer. Raises FileChanging, FileUnreadable, SnapshotRefused, each naming the culprit."""
    readings: dict[bytes, Reading] = {}
    vanished: set[bytes] = set()
    culprit: bytes | None = None
    root_fd = _open(source)
    try:
        for _ in range(effort.rounds):
            # A fresh Beneath each round, for folders kept open may have been moved. The pool ends before it closes.
            with Beneath(root_fd) as root, TaskPool(effort.workers, control) as pool:
                control.phase("scan")
                tree = scan(root, control)
                firsts = _first_names(tree)
                reader = Reader(
                    root,
                    packer=packer,
                    pool=pool,
                    owner_key=owner_key,
                    control=control,
                    effort=effort,
                    clock_ns=clock_ns,
                )
                todo = [node for node in firsts.values() if not _is_read(node, readings)]
                control.phase(
                    "read", bytes_total=sum(node.facts.st_size for node in todo), files_total=len(todo)
                )
                reader.read(todo)
                pool.join()
                readings.update(reader.readings)
                gone = tree.vanished + reader.vanished
                vanished.update(gone)
                culprit = _unsettled(root, tree, firsts, readings, gone)
            if culprit is None:
                return TreeRead(
                    entry_of(tree.top), _entries(tree, firsts, readings), _warnings(tree, vanished)
                )
            control.pause(effort.retry_pause_s)
    finally:
        os.close(root_fd)
    raise FileChanging(
        culprit or b"",
        f"files were made, moved or removed each of the {effort.rounds} times the workspace was read: stop the program that does it",
    )


def _open(source: str | os.PathLike[str]) -> int:
    try:
        return os.open(source, FOLDER_FLAGS & ~os.O_NOFOLLOW)
    except OSError as error:
        raise FileUnreadable(b"", f"{os.fspath(source)!r} {why_unreadable(error)}") from error


def _unsettled(
    root: Beneath, tree: Tree, firsts: dict[Inode, Node], readings: dict[bytes, Reading], gone: list[bytes]
) -> bytes | None:
    """A path that is not what it was when the tree was looked through; None if what was read is one tree."""
    changed = changed_folder(root, tree)
    if changed is not None:
        return changed
    if gone:
        return gone[0]
    for inode, node in firsts.items():
        facts = readings[node.path].facts
        if (facts.st_dev, facts.st_ino) != inode:
            return node.path
    return None


def _first_names(tree: Tree) -> dict[Inode, Node]:
    """By inode, the first name of every file: further names are hard links to it."""
    firsts: dict[Inode, Node] = {}
    for node in tree.nodes:
        if node.kind is Kind.FILE:
            firsts.setdefault(node.inode, node)
    return firsts


def _is_read(node: Node, readings: dict[bytes, Reading]) -> bool:
    reading = readings.get(node.path)
    return reading is not None and reading.identity == Identity.of(node.facts)


def _entries(tree: Tree, firsts: dict[Inode, Node], readings: dict[bytes, Reading]) -> list[Entry]:
    """In path order. Metadata of files are those that were true while the bytes were read."""
    entries = []
    links: dict[Inode, bytes] = {inode: node.path for inode, node in firsts.items()}
    for node in tree.nodes:
        if node.kind is Kind.FOLDER:
            entries.append(entry_of(node))
            continue
        first = links.setdefault(node.inode, node.path) if node.facts.st_nlink > 1 else node.path
        if first != node.path:
            entries.append(entry_of(node)._replace(kind=Kind.HARD_LINK, target=first, xattrs=(), device=None))
        elif node.kind is Kind.FILE:
            reading = readings[node.path]
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
