"""Small workspaces with everything that is hard to copy, and a comparison that trusts nothing of the engine.

A test writes into the box's folder, as the owner would over SSH.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from config.launcher.demo import tree

FILES = 300
SPARSE_BYTES = 16 * 1024 * 1024
LONG_AGO_NS = 1_500_000_000_123_456_789


@dataclass(frozen=True)
class Looked:
    """Each entry's kind, mode, mtime, size and hash; which names are one file; which files have holes."""

    entries: dict[bytes, tree.Entry]
    linked: frozenset[frozenset[bytes]]
    holey: frozenset[bytes]


def fill(root: Path, *, seed: int, bytes_more: int = 2_000_000) -> Looked:
    """Some hundred entries. bytes_more: of one file that nothing compresses. Returns what there is to come back."""
    rng = random.Random(seed)
    top = os.fsencode(root)
    _small_files(top, rng)
    _odd_names(top)
    _write(top, b"weights.bin", rng.randbytes(bytes_more))
    with open(os.path.join(top, b"sparse.img"), "wb") as file:
        file.truncate(SPARSE_BYTES)
        file.seek(SPARSE_BYTES // 2)
        file.write(b"an island")
    os.link(os.path.join(top, b"weights.bin"), os.path.join(top, b"hard-link.bin"))
    os.symlink(b"weights.bin", os.path.join(top, b"latest"))
    os.symlink(b"/nowhere/at/all", os.path.join(top, b"dangling"))
    os.symlink(b"..", os.path.join(top, b"up"))
    os.makedirs(os.path.join(top, b"empty/folder"))
    os.chmod(os.path.join(top, b"empty"), 0o1777)
    os.utime(os.path.join(top, b"latest"), ns=(LONG_AGO_NS, LONG_AGO_NS), follow_symlinks=False)
    for path in (b"empty/folder", b"sparse.img", b"src"):
        os.utime(os.path.join(top, path), ns=(LONG_AGO_NS, LONG_AGO_NS + 1))
    return look(root)


def look(root: Path) -> Looked:
    entries = tree.look(root)
    top = os.fsencode(root)
    names: dict[int, set[bytes]] = defaultdict(set)
    holey = set()
    for path, entry in entries.items():
        if entry.kind != "file":
            continue
        facts = os.lstat(os.path.join(top, path))
        if facts.st_nlink > 1:
            names[facts.st_ino].add(path)
        if facts.st_blocks * 512 < facts.st_size // 2:
            holey.add(path)
    return Looked(entries, frozenset(frozenset(group) for group in names.values()), frozenset(holey))


def differences(before: Looked, after: Looked) -> list[str]:
    """A line for each thing that is not as it was."""
    lines = tree.differences(before.entries, after.entries)
    if before.linked != after.linked:
        lines.append(f"hard links: {set(before.linked)} became {set(after.linked)}")
    if before.holey - after.holey:
        lines.append(f"holes were filled: {sorted(before.holey - after.holey)}")
    return lines


def _small_files(top: bytes, rng: random.Random) -> None:
    for number in range(FILES):
        folder = b"src/package_%d" % (number % 7)
        name = b"module_%03d.py" % number
        _write(top, os.path.join(folder, name), b"x = %d\n" % number * rng.randrange(0, 200))
        path = os.path.join(top, folder, name)
        os.chmod(path, rng.choice((0o644, 0o600, 0o755, 0o444, 0o4755, 0o000)))
        at_ns = LONG_AGO_NS + rng.randrange(10**17)
        os.utime(path, ns=(at_ns, at_ns))


def _odd_names(top: bytes) -> None:
    names = (
        b"not utf-8 \xff\xfe", b"new\nline", b" blank ", b"-rf", b"*", b"$(touch owned)", b"'\"", b"...",
        "ação ñ 日本 🐭".encode(), b"a" * 255,
    )  # fmt: skip
    for name in names:
        _write(top, os.path.join(b"odd", name), name)
    _write(top, b"odd/.hidden/empty", b"")


def _write(top: bytes, path: bytes, data: bytes) -> None:
    full = os.path.join(top, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "wb") as file:
        file.write(data)
