"""One name in a tree, and the rules that a tree of them must follow (format 6)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, NamedTuple

from snapshots.engine.errors import ManifestRefused, show
from snapshots.engine.fields import INT64_MAX, octets, pack, refuse, row, rows, unpack_one, whole
from snapshots.engine.keys import ID_BYTES, OwnerKey
from snapshots.engine.limits import (
    CHUNK_BYTES_MAX,
    NAME_BYTES_MAX,
    PATH_BYTES_MAX,
    PATH_NAMES_MAX,
    SEGMENT_RAW_MAX,
    SYMLINK_BYTES_MAX,
    XATTR_VALUE_MAX,
    XATTRS_BYTES_MAX,
    XATTRS_MAX,
    Limits,
)

UID_MAX = 2**32 - 2
XATTR_NAMESPACE = b"user."
NAMES_NEVER = frozenset({b"", b".", b".."})


class Kind(IntEnum):
    FILE = 0
    FOLDER = 1
    SYMLINK = 2
    HARD_LINK = 3
    FIFO = 4
    SOCKET = 5
    CHARACTER_DEVICE = 6
    BLOCK_DEVICE = 7


KINDS = tuple(Kind)
KIND_MAX = max(KINDS)
DEVICES = frozenset({Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE})
Extent = tuple[bytes | None, int]
"""(chunk id, or None for a hole; length in bytes)"""
Xattrs = tuple[tuple[bytes, bytes], ...]


class Entry(NamedTuple):
    """The eleven columns of the format, in its order. path is empty for the top folder only."""

    path: bytes
    kind: Kind
    mode: int
    mtime_ns: int
    uid: int
    gid: int
    xattrs: Xattrs = ()
    size: int = 0
    extents: tuple[Extent, ...] = ()
    target: bytes = b""
    device: tuple[int, int] | None = None

    def encode(self) -> bytes:
        return pack(tuple(self))


class EncodedEntry(NamedTuple):
    """An entry as a segment holds it, and the columns that a manifest is cut and counted by."""

    path: bytes
    raw: bytes
    kind: Kind
    size: int

    @classmethod
    def of(cls, entry: Entry) -> EncodedEntry:
        return cls(entry.path, entry.encode(), entry.kind, entry.size)


def decode_entry(raw: bytes) -> Entry:
    """Bytes that this program made itself, unchecked. What came from a store goes through parse_entry."""
    columns = unpack_one(raw)
    return Entry(columns[0], KINDS[columns[1]], *columns[2:])


def path_order(path: bytes) -> bytes:
    """Sort key: a folder comes directly before everything inside it."""
    return path.replace(b"/", b"\0")


def content_id(top: Entry, raws: Iterable[bytes], owner_key: OwnerKey) -> bytes:
    """Format 8. raws: the encodings of all entries but the top folder, in path order."""
    hasher = owner_key.content_hasher()
    hasher.update(top.encode())
    hasher.update(b"".join(raws))
    return hasher.digest()


def parse_entry(value: object, *, top: bool = False) -> Entry:
    """A decoded MessagePack value as an Entry, every column checked. Raises ManifestRefused, naming the path."""
    columns = row(value, "an entry", len(Entry._fields))
    path = octets(columns[0], "a path", high=PATH_BYTES_MAX)
    if not top:
        check_path(path)
    elif path or columns[1] != Kind.FOLDER:
        refuse("the top entry is not a folder without a name")
    try:
        return _parse_columns(*columns)
    except ManifestRefused as error:
        raise ManifestRefused(f"{error} (entry {show(path)})") from None


def _parse_columns(
    path: bytes,
    kind: Any,
    mode: Any,
    mtime_ns: Any,
    uid: Any,
    gid: Any,
    xattrs: Any,
    size: Any,
    extents: Any,
    target: Any,
    device: Any,
) -> Entry:
    for name, value, low, high in (
        ("kind", kind, 0, KIND_MAX),
        ("mode", mode, 0, 0o7777),
        ("mtime", mtime_ns, -(2**63), INT64_MAX),
        ("uid", uid, 0, UID_MAX),
        ("gid", gid, 0, UID_MAX),
        ("size", size, 0, INT64_MAX),
    ):
        if type(value) is not int or not low <= value <= high:
            whole(value, name, low=low, high=high)
    if xattrs != ():
        _check_xattrs(xattrs)
    if kind == Kind.FILE:
        _check_extents(extents, size)
    elif size or extents != ():
        refuse("what is no file has a size or extents")
    _check_target(kind, target)
    if kind in DEVICES:
        major, minor = row(device, "device", 2)
        whole(major, "major number", high=2**32 - 1)
        whole(minor, "minor number", high=2**32 - 1)
    elif device is not None:
        refuse("what is no device has a device number")
    return Entry(path, KINDS[kind], mode, mtime_ns, uid, gid, xattrs, size, extents, target, device)


def check_path(path: bytes) -> None:
    """Relative, no empty name, no `.` or `..`, no NUL. Raises ManifestRefused."""
    if not path:
        refuse("an entry has an empty path")
    if len(path) > PATH_BYTES_MAX or b"\0" in path:
        refuse(f"the path {show(path[:200])} is too long or holds a NUL byte")
    names = path.split(b"/")
    if len(names) > PATH_NAMES_MAX:
        refuse(f"the path {show(path[:200])}… is nested deeper than {PATH_NAMES_MAX} folders")
    too_long = len(path) > NAME_BYTES_MAX and len(max(names, key=len)) > NAME_BYTES_MAX
    if too_long or not NAMES_NEVER.isdisjoint(names):
        refuse(
            f"the path {show(path[:400])} has a name that is empty, '.', '..' or longer than {NAME_BYTES_MAX} bytes"
        )


def _check_extents(extents: object, size: int) -> None:
    total = 0
    for extent in rows(extents, "extents", high=SEGMENT_RAW_MAX):
        chunk, length = row(extent, "an extent", 2)
        if chunk is None:
            total += whole(length, "a hole", low=1)
            continue
        if type(chunk) is not bytes or len(chunk) != ID_BYTES:
            octets(chunk, "a chunk id", low=ID_BYTES, high=ID_BYTES)
        if type(length) is not int or not 0 < length <= CHUNK_BYTES_MAX:
            whole(length, "a chunk's length", low=1, high=CHUNK_BYTES_MAX)
        total += length
    if total != size:
        refuse(f"its extents make {total} bytes, its size is {size}")


def _check_target(kind: int, target: object) -> None:
    if kind == Kind.SYMLINK:
        if b"\0" in octets(target, "a symlink's target", low=1, high=SYMLINK_BYTES_MAX):
            refuse("a symlink's target holds a NUL byte")
    elif kind == Kind.HARD_LINK:
        check_path(octets(target, "a hard link's target", low=1, high=PATH_BYTES_MAX))
    elif target != b"":
        refuse("what is no link has a target")


def _check_xattrs(xattrs: object) -> None:
    total, last = 0, b""
    for pair in rows(xattrs, "attributes", high=XATTRS_MAX):
        key, value = row(pair, "an attribute", 2)
        octets(key, "an attribute's name", low=len(XATTR_NAMESPACE) + 1, high=255)
        octets(value, "an attribute's value", high=XATTR_VALUE_MAX)
        if not key.startswith(XATTR_NAMESPACE) or b"\0" in key or key <= last:
            refuse(f"attribute {show(key)} is outside user.*, out of order, or given twice")
        total, last = total + len(key) + len(value), key
    if total > XATTRS_BYTES_MAX:
        refuse(f"its attributes make {total} bytes, more than {XATTRS_BYTES_MAX}")


class TreeRules:
    """Feed it every entry but the top, in order; it refuses what could not be a tree. Raises ManifestRefused."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._folders = [b""]
        self._last = b""
        self._linkable: set[bytes] = set()
        self.entries = 0
        self.logical_bytes = 0

    def admit(self, entry: Entry) -> None:
        path, kind = entry.path, entry.kind
        order = path_order(path)
        if order <= self._last:
            refuse(f"{show(path)} is out of order or there twice")
        self._last = order
        parent, folders = path.rpartition(b"/")[0], self._folders
        while folders and folders[-1] != parent:
            folders.pop()
        if not self._folders:
            refuse(f"{show(path)} lies in something that is not a folder of this snapshot")
        if kind is Kind.FOLDER:
            self._folders.append(path)
        elif kind is Kind.HARD_LINK:
            if entry.target not in self._linkable:
                refuse(
                    f"{show(entry.path)} is a hard link to {show(entry.target)}, which is no earlier file of this snapshot"
                )
        else:
            self._linkable.add(path)
        self.count(entry)

    def count(self, entry: Entry | EncodedEntry) -> None:
        """The limits alone: all that a writer needs to ask about an entry whose columns and place it knows to be right."""
        self.entries += 1
        self.logical_bytes += entry.size
        if entry.size > self._limits.file_bytes:
            refuse(
                f"{show(entry.path)} has {entry.size} bytes, more than the {self._limits.file_bytes} that are accepted"
            )
        if self.entries > self._limits.entries:
            refuse(f"more than the {self._limits.entries} entries that are accepted")
        if self.logical_bytes > self._limits.total_bytes:
            refuse(f"its files have more than the {self._limits.total_bytes} bytes that are accepted")
