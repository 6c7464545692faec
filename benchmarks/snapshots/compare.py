"""Are two trees the same? Written apart from the engine, so that it cannot share the engine's mistakes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

Facts = dict[str, object]


class Difference(NamedTuple):
    """names: what differs, up to `shown` of them. sparse_lost: files that take up more room than they did."""

    compared: int
    count: int
    names: list[str]
    sparse_lost: int


def compare(left: Path, right: Path, *, shown: int = 10) -> Difference:
    """Kind, bytes, mode, owner, time (ns; not of symlinks), attributes, hard links, symlinks, room on the disk."""
    first, second = dict(_entries(left)), dict(_entries(right))
    names, count, sparse_lost = [], 0, 0
    for name in sorted(first.keys() | second.keys()):
        one, other = first.get(name, {}), second.get(name, {})
        blocks, now = one.pop("blocks", 0), other.pop("blocks", 0)
        if one == other:
            sparse_lost += isinstance(now, int) and isinstance(blocks, int) and now > blocks * 1.1 + 64
            continue
        count += 1
        if len(names) < shown:
            what = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
            names.append(
                f"{ascii(name)[:90]}: {'missing' if not other else 'extra' if not one else ', '.join(what)}"
            )
    return Difference(len(first.keys() | second.keys()), count, names, sparse_lost)


def _entries(root: Path) -> Iterator[tuple[str, Facts]]:
    base = os.fsencode(root)
    links: dict[tuple[int, int], str] = {}
    for folder, folders, files in os.walk(base):
        folders.sort()
        for name in sorted(folders + files):
            path = os.path.join(folder, name)
            shown = os.path.relpath(path, base).decode("latin1")
            yield shown, _facts(path, shown, links)


def _facts(path: bytes, shown: str, links: dict[tuple[int, int], str]) -> Facts:
    found = os.lstat(path)
    facts: Facts = {"mode": found.st_mode, "owner": (found.st_uid, found.st_gid)}
    if stat.S_ISLNK(found.st_mode):
        facts["target"] = os.readlink(path)
    else:
        facts["time"] = found.st_mtime_ns
    if stat.S_ISREG(found.st_mode):
        with open(path, "rb") as file:
            facts["bytes"] = hashlib.file_digest(file, "sha256").hexdigest()
        facts["size"], facts["blocks"] = found.st_size, found.st_blocks
        if found.st_nlink > 1:
            facts["hard link"] = links.setdefault((found.st_dev, found.st_ino), shown)
    if not stat.S_ISLNK(found.st_mode):
        try:
            facts["attributes"] = {
                key: os.getxattr(path, key) for key in os.listxattr(path) if key.startswith("user.")
            }
        except OSError:
            facts["attributes"] = {}
    return facts
