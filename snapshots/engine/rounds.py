"""Reading a whole tree: look through it, read it, look again, until nothing was moved, made or removed meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from snapshots.engine.beneath import FOLDER_FLAGS, Beneath
from snapshots.engine.entry import DEVICES, EncodedEntry, Entry, Kind, decode_entry, parse_entry
from snapshots.engine.errors import FileChanging, FileUnreadable, show
from snapshots.engine.ignore import LeftOut, rules_of
from snapshots.engine.keys import OwnerKey
from snapshots.engine.limits import Effort
from snapshots.engine.packing import Packer
from snapshots.engine.parallel import TaskPool
from snapshots.engine.progress import Control
from snapshots.engine.reading import Reader, Reading
from snapshots.engine.scan import Node, Tree, changed_folder, entry_of, scan, why_unreadable
from snapshots.engine.siblings import Siblings
from snapshots.engine.statindex import StatIndex, identity_of

WARNINGS_MAX = 100
Inode = tuple[int, int]
Found = tuple[EncodedEntry, os.stat_result | None]
"""An entry and the facts that it stands on; None for one that an earlier snapshot lends."""

Older = Callable[[bytes], Entry | None]
"""What an earlier snapshot has under a path."""


class TreeRead(NamedTuple):
    """Every entry in path order, with the facts it stands on, and what to tell about those that could not be kept.

    looked_at_ns: a time before the first of these facts. known_files: how many files are as the stat index has them;
    None where there are others.
    """

    top: Entry
    entries: list[Found]
    warnings: list[str]
    looked_at_ns: int
    known_files: int | None
    left_out: list[LeftOut]


def read_tree(
    source: str | os.PathLike[str],
    *,
    packer: Packer,
    owner_key: OwnerKey,
    control: Control,
    effort: Effort,
    clock_ns: Callable[[], int],
    index: StatIndex | None = None,
    ignore: Iterable[bytes] | None = None,
    older: Older | None = None,
) -> TreeRead:
    """Every file's bytes into the packer, but for those that the index proves to be unchanged. Raises FileChanging, FileUnreadable, SnapshotRefused, each naming the culprit.

    older: somebody works in this tree and is not to be stopped. A file that never holds still is as `older` has it, or is
    not there; folders that never hold still are as the last look found them. Each is a warning, none a FileChanging.
    """
    readings: dict[bytes, Reading] = {}
    vanished: set[bytes] = set()
    changing: set[bytes] = set()
    siblings = Siblings(index.rows() if index is not None else ())
    culprit: bytes | None = None
    root_fd = _open(source)
    try:
        for left in reversed(range(effort.rounds)):
            # A fresh Beneath each round, for folders kept open may have been moved. The pool ends before it closes.
            with Beneath(root_fd) as root, TaskPool(effort.workers, control) as pool:
                control.phase("scan")
                looked_at_ns = clock_ns()
                rules = None if ignore is None else rules_of(root, ignore)
                tree = scan(root, control, index, rules)
                firsts = _first_names(tree)
                reader = Reader(
                    root,
                    packer=packer,
                    pool=pool,
                    owner_key=owner_key,
                    control=control,
                    effort=effort,
                    clock_ns=clock_ns,
                    siblings=siblings,
                    gives_up=older is not None,
                )
                if index is not None:
                    readings.update(_moved(firsts, index))
                todo = [node for node in firsts if node.path not in changing and not _is_read(node, readings)]
                control.phase(
                    "read", bytes_total=sum(node.facts.st_size for node in todo), files_total=len(todo)
                )
                if todo:
                    _ = packer.known  # fetched once, before many threads ask for it
                reader.read(todo)
                pool.join()
                readings.update(reader.readings)
                changing.update(reader.changing)
                gone = tree.vanished + reader.vanished
                vanished.update(gone)
                held = [node for node in firsts if node.path not in changing]
                culprit = _unsettled(root, tree, held, readings, gone)
            if culprit is None or (older is not None and left == 0):
                known_files = sum(node.seen is not None for node in firsts)
                lent = Lent(older, changing | _torn(firsts, readings), set(gone))
                return TreeRead(
                    entry_of(tree.top),
                    _entries(tree, firsts, readings, lent),
                    _warnings(tree, vanished, lent, unsettled=culprit),
                    looked_at_ns,
                    known_files if known_files == len(firsts) else None,
                    tree.left_out,
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
    root: Beneath, tree: Tree, firsts: list[Node], readings: dict[bytes, Reading], gone: list[bytes]
) -> bytes | None:
    """A path that is not what it was when the tree was looked through; None if what was read is one tree."""
    changed = changed_folder(root, tree)
    if changed is not None:
        return changed
    if gone:
        return gone[0]
    for node in firsts:
        if node.seen is not None:
            continue
        facts = readings[node.path].facts
        if (facts.st_dev, facts.st_ino) != node.inode:
            return node.path
    return None


def _first_names(tree: Tree) -> list[Node]:
    """The first name of every file: further names are hard links to it.

    A file of one link that was seen twice was moved in between: each name stands for itself, and one is gone by now.
    """
    firsts: list[Node] = []
    linked: set[Inode] = set()
    for node in tree.nodes:
        if node.kind is not Kind.FILE or node.inode in linked:
            continue
        if node.facts.st_nlink > 1:
            linked.add(node.inode)
        firsts.append(node)
    return firsts


def _is_read(node: Node, readings: dict[bytes, Reading]) -> bool:
    if node.seen is not None:
        return True
    reading = readings.get(node.path)
    return reading is not None and reading.identity == identity_of(node.facts)


def _moved(firsts: Iterable[Node], index: StatIndex) -> dict[bytes, Reading]:
    """Unchanged files whose folder has another name now: their bytes are where they were."""
    found = {}
    for node in firsts:
        if node.seen is None and (row := index.moved(node.facts)) is not None:
            before = decode_entry(row.raw)
            found[node.path] = Reading(node.facts, before.xattrs, before.extents)
    return found


class Lent:
    """Names whose files could not be read whole: what an earlier snapshot has in their place, if anything.

    paths: of files that never held still. gone: of names that were removed while we looked; nobody lends those.
    """

    def __init__(self, older: Older | None, paths: set[bytes], gone: set[bytes]) -> None:
        self._older = older
        self._paths = paths - gone
        self._gone = gone
        self.kept: set[bytes] = set()
        self.left_out: set[bytes] = set()

    def takes(self, first: bytes) -> bool:
        """Whether the file with that first name was not read whole."""
        return first in self._paths or first in self._gone

    def entry(self, path: bytes, first: bytes) -> EncodedEntry | None:
        """What stands in for that name; None: nothing does. `first` is asked for before its other names."""
        if first in self._gone or self._older is None:
            return None
        old = self._older(path)
        is_file = old is not None and old.kind is Kind.FILE and path == first
        is_link = old is not None and old.kind is Kind.HARD_LINK and old.target == first in self.kept
        if old is None or not (is_file or is_link):
            self.left_out.add(path)
            return None
        self.kept.add(path)
        return EncodedEntry.of(old)


def _torn(firsts: list[Node], readings: dict[bytes, Reading]) -> set[bytes]:
    """Files of several names of which the one that was read is another file by now: which of them is which, nobody knows."""
    return {
        node.path
        for node in firsts
        if node.seen is None
        and node.facts.st_nlink > 1
        and (reading := readings.get(node.path)) is not None
        and (reading.facts.st_dev, reading.facts.st_ino) != node.inode
    }


def _entries(tree: Tree, firsts: list[Node], readings: dict[bytes, Reading], lent: Lent) -> list[Found]:
    """In path order. Metadata of files are those that were true while the bytes were read."""
    found: list[Found] = []
    links: dict[Inode, bytes] = {node.inode: node.path for node in firsts if node.facts.st_nlink > 1}
    for node in tree.nodes:
        path, kind, facts, _, _, seen = node
        first = path
        if facts.st_nlink > 1 and kind is not Kind.FOLDER:
            first = links.setdefault(node.inode, path)
        if kind is Kind.FILE and seen is None and lent.takes(first):
            if (standing := lent.entry(path, first)) is not None:
                found.append((standing, None))
            continue
        if seen is not None and first == path:
            found.append(
                (EncodedEntry(path, seen[1], kind, facts.st_size if kind is Kind.FILE else 0), facts)
            )
            continue
        entry = entry_of(node)
        if first != path:
            entry = entry._replace(kind=Kind.HARD_LINK, target=first, xattrs=(), device=None)
        elif kind is Kind.FILE:
            facts, xattrs, extents = readings[path]
            entry = entry_of(node._replace(facts=facts, xattrs=xattrs))
            entry = entry._replace(size=facts.st_size, extents=extents)
        if entry.xattrs:
            parse_entry(
                (*entry[:1], int(kind), *entry[2:])
            )  # the one thing that a file system may hold more of than we
        found.append((EncodedEntry.of(entry), facts))
    return found


def _warnings(tree: Tree, vanished: set[bytes], lent: Lent, *, unsettled: bytes | None) -> list[str]:
    present = {node.path for node in tree.nodes}
    gone = sorted(vanished - present)
    changed = [
        f"{show(path)}: it was written all the time; its last version is kept" for path in sorted(lent.kept)
    ]
    changed += [
        f"{show(path)}: it was written all the time, and there is no earlier version: it is left out"
        for path in sorted(lent.left_out)
    ]
    if unsettled is not None:
        changed.append(f"{show(unsettled)}: names were made, moved or removed in it at each look")
    found = changed + [
        f"{show(path)}: vanished while the snapshot was taken and is not in it" for path in gone
    ]
    for node in tree.nodes:
        if node.kind is Kind.SOCKET or node.kind in DEVICES:
            found.append(
                f"{show(node.path)}: a {node.kind.name.lower().replace('_', ' ')} is noted, not kept"
            )
    if len(found) > WARNINGS_MAX:
        found[WARNINGS_MAX:] = [f"and {len(found) - WARNINGS_MAX} more of this kind"]
    return found
