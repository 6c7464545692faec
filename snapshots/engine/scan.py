"""Looking through a tree: every name and its lstat, nothing read yet."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from snapshots.engine.beneath import Beneath
from snapshots.engine.entry import DEVICES, Entry, Kind, Xattrs, path_order
from snapshots.engine.errors import FileUnreadable, SnapshotRefused
from snapshots.engine.ignore import Ignore, LeftOut
from snapshots.engine.limits import PATH_BYTES_MAX, PATH_NAMES_MAX
from snapshots.engine.progress import Control
from snapshots.engine.statindex import Seen, StatIndex, identity_of
from snapshots.engine.xattrs import read_xattrs

CHECK_EVERY = 256
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO})
"""What opening a name gives that was removed, or replaced by something else, since it was seen."""


class Node(NamedTuple):
    """A name and what lstat said. target is a symlink's, xattrs a folder's (a file's are read with its bytes).

    seen: the row of the stat index, if nothing about the name has changed; target is not read then.
    """

    path: bytes
    kind: Kind
    facts: os.stat_result
    target: bytes = b""
    xattrs: Xattrs = ()
    seen: Seen | None = None

    @property
    def inode(self) -> tuple[int, int]:
        return self.facts.st_dev, self.facts.st_ino


class Tree(NamedTuple):
    """One look at a tree. nodes: all but the top, in path order. vanished: names that were gone when we came to them."""

    top: Node
    nodes: list[Node]
    vanished: list[bytes]
    left_out: list[LeftOut]


def scan(
    root: Beneath, control: Control, index: StatIndex | None = None, ignore: Ignore | None = None
) -> Tree:
    """Every name below the root that is not left out, with what the index knows of it. Raises FileUnreadable, naming it; what vanishes meanwhile is listed, not an error."""
    facts = os.fstat(root.root_fd)
    top = Node(b"", Kind.FOLDER, facts)
    nodes: list[Node] = []
    vanished: list[bytes] = []
    left_out: list[LeftOut] = []
    folders = [b""]
    attributes: dict[bytes, Xattrs] = {}
    while folders:
        folder = folders.pop()
        control.check()
        try:
            fd = root.folder(folder)
            if xattrs := read_xattrs(fd):
                attributes[folder] = xattrs
            for node in _children(fd, folder, vanished, control, index):
                if ignore is not None:
                    rule = ignore.rule_for(node.path, is_folder=node.kind is Kind.FOLDER)
                    if rule is not None:
                        left_out.append(LeftOut(node.path, rule))
                        continue
                if node.kind is Kind.FOLDER:
                    folders.append(node.path)
                nodes.append(node)
        except OSError as error:
            if error.errno not in GONE:
                raise FileUnreadable(folder, why_unreadable(error)) from error
            vanished.append(folder)
    nodes = [
        node._replace(xattrs=attributes[node.path]) if node.path in attributes else node for node in nodes
    ]
    nodes.sort(key=lambda node: path_order(node.path))
    return Tree(top._replace(xattrs=attributes.get(b"", ())), nodes, vanished, sorted(left_out))


def _children(
    fd: int, folder: bytes, vanished: list[bytes], control: Control, index: StatIndex | None
) -> Iterator[Node]:
    prefix = folder + b"/" if folder else b""
    fsencode, known = os.fsencode, None if index is None else index.row
    deep = prefix.count(b"/") >= PATH_NAMES_MAX
    with os.scandir(fd) as rows:
        for number, row in enumerate(rows):
            if number % CHECK_EVERY == 0:
                control.check()
            name = fsencode(row.name)
            path = prefix + name
            if deep or len(path) > PATH_BYTES_MAX:
                raise SnapshotRefused(
                    path[:200],
                    f"longer than {PATH_BYTES_MAX} bytes or deeper than {PATH_NAMES_MAX} names: shorten or move it",
                )
            try:
                facts = row.stat(follow_symlinks=False)
                kind = kind_of(facts.st_mode, path)
                seen = None if known is None else known(path, facts)
                is_new_link = kind is Kind.SYMLINK and seen is None
                target = os.readlink(name, dir_fd=fd) if is_new_link else b""
            except OSError as error:
                if error.errno not in GONE:
                    raise FileUnreadable(path, why_unreadable(error)) from error
                vanished.append(path)
                continue
            yield Node(path, kind, facts, target, (), seen)


def changed_folder(root: Beneath, tree: Tree) -> bytes | None:
    """None if every folder still has the names it had when it was looked through, else the path of one that has not."""
    for node in [tree.top, *(node for node in tree.nodes if node.kind is Kind.FOLDER)]:
        try:
            facts = os.fstat(root.folder(node.path))
        except OSError:
            return node.path
        if identity_of(facts) != identity_of(node.facts):
            return node.path
    return None


def kind_of(mode: int, path: bytes) -> Kind:
    kind = _KINDS.get(mode & _TYPE)
    if kind is None:
        raise SnapshotRefused(path, f"it is of an unknown type ({stat.S_IFMT(mode):#o}): remove it")
    return kind


def entry_of(node: Node) -> Entry:
    """The entry of anything but a file's content and hard links."""
    facts = node.facts
    device = (os.major(facts.st_rdev), os.minor(facts.st_rdev)) if node.kind in DEVICES else None
    return Entry(
        path=node.path,
        kind=node.kind,
        mode=stat.S_IMODE(facts.st_mode),
        mtime_ns=facts.st_mtime_ns,
        uid=facts.st_uid,
        gid=facts.st_gid,
        xattrs=node.xattrs,
        target=node.target,
        device=device,
    )


def why_unreadable(error: OSError) -> str:
    return (
        f"cannot be read ({error.strerror or error}): let the agent read it, or move it out of the workspace"
    )


_TYPE = 0o170000
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.FOLDER,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}
