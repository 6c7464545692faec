"""Are two trees the same? Independent of the engine on purpose: it shares no code with what it judges."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

SPARSE_SLACK_BYTES = 64 << 10
ALL = frozenset(
    {"kind", "mode", "mtime", "owner", "size", "bytes", "target", "device", "links", "xattrs", "blocks"}
)


class Difference(NamedTuple):
    """what: "missing" (only in the first), "extra" (only in the second), or one of ALL."""

    path: bytes
    what: str
    first: object
    second: object

    def __str__(self) -> str:
        return f"{self.path.decode('utf-8', 'backslashreplace') or '.'}: {self.what} {self.first!r} → {self.second!r}"


def compare(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    ignore: frozenset[str] = frozenset(),
    leave_out: frozenset[bytes] = frozenset(),
) -> list[Difference]:
    """Every difference between two folders, the folders themselves included; [] means the same.

    Compared: kind, mode with setuid bits, mtime to the nanosecond, owner, bytes (SHA-256), symlink text, device numbers, which
    names are hard links of each other, user attributes, and whether a sparse file became less so (by more than 64 KiB and
    2 %). ignore: some of ALL. leave_out: paths that neither side is asked for, e.g. sockets.
    """
    a, b = (dict(_facts(os.fsencode(root), ignore)) for root in (first, second))
    found = []
    for path in sorted((a.keys() | b.keys()) - leave_out):
        if path not in b:
            found.append(Difference(path, "missing", a[path]["kind"], None))
        elif path not in a:
            found.append(Difference(path, "extra", None, b[path]["kind"]))
        else:
            found += _differences(path, a[path], b[path])
    return found


Facts = dict[str, object]


def _differences(path: bytes, a: Facts, b: Facts) -> Iterator[Difference]:
    for what in sorted(a.keys() | b.keys()):
        if what == "blocks":
            before, after, size = a[what], b.get(what), a["size"]
            assert isinstance(before, int) and isinstance(size, int)
            is_sparse = before < size
            if is_sparse and isinstance(after, int) and after > before * 1.02 + SPARSE_SLACK_BYTES:
                yield Difference(path, what, before, after)
        elif a.get(what) != b.get(what):
            yield Difference(path, what, a.get(what), b.get(what))


def _facts(root: bytes, ignore: frozenset[str]) -> Iterator[tuple[bytes, Facts]]:
    groups: dict[tuple[int, int], list[bytes]] = {}
    found: list[tuple[bytes, Facts]] = []
    for path in _walk(root):
        full = os.path.join(root, path) if path else root
        facts = os.lstat(full)
        found.append((path, {what: value for what, value in _look(full, facts) if what not in ignore}))
        if not stat.S_ISDIR(facts.st_mode):
            groups.setdefault((facts.st_dev, facts.st_ino), []).append(path)
    partners = {path: sorted(group) for group in groups.values() if len(group) > 1 for path in group}
    for path, facts_of in found:
        if "links" not in ignore:
            facts_of["links"] = partners.get(path)
        yield path, facts_of


def _walk(root: bytes) -> Iterator[bytes]:
    yield b""
    pending = [b""]
    while pending:
        folder = pending.pop()
        with os.scandir(os.path.join(root, folder) if folder else root) as rows:
            for row in rows:
                path = os.path.join(folder, row.name) if folder else row.name
                yield path
                if row.is_dir(follow_symlinks=False):
                    pending.append(path)


def _look(full: bytes, facts: os.stat_result) -> Iterator[tuple[str, object]]:
    mode = facts.st_mode
    yield "kind", stat.filemode(mode)[0]
    yield "mtime", facts.st_mtime_ns
    yield "owner", (facts.st_uid, facts.st_gid)
    if not stat.S_ISLNK(mode):
        yield "mode", oct(stat.S_IMODE(mode))
    if stat.S_ISREG(mode):
        yield "size", facts.st_size
        yield "bytes", _sha256(full)
        yield "blocks", facts.st_blocks * 512
    elif stat.S_ISLNK(mode):
        yield "target", os.readlink(full)
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        yield "device", facts.st_rdev
    if hasattr(os, "listxattr") and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        names = [name for name in os.listxattr(full, follow_symlinks=False) if name.startswith("user.")]
        yield "xattrs", {name: os.getxattr(full, name, follow_symlinks=False) for name in sorted(names)}


def _sha256(full: bytes) -> str:
    with open(full, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
