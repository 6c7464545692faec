"""Fixed times for everything that the clock would otherwise mark."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from benchmarks.snapshots.workspace.seeds import EPOCH_S

FolderTimes = dict[bytes, int]


def settle(root: Path) -> None:
    """Every entry gets a time of its own, children before parents."""
    base = os.fsencode(root)
    for folder, folders, files in os.walk(base, topdown=False):
        for name in files + folders:
            path = os.path.join(folder, name)
            at_ns = (EPOCH_S - zlib.crc32(os.path.relpath(path, base)) % 9_000_000) * 10**9
            at_ns += zlib.crc32(name) % 10**9
            os.utime(path, ns=(at_ns, at_ns), follow_symlinks=False)


def stamp(path: Path | bytes, number: int) -> None:
    """The `number`-th moment after the first session."""
    at_ns = (EPOCH_S + 5_000 + number) * 10**9 + 123_456_789
    os.utime(path, ns=(at_ns, at_ns), follow_symlinks=False)


def folder_times(root: Path) -> FolderTimes:
    return {folder: os.lstat(folder).st_mtime_ns for folder, _, _ in os.walk(os.fsencode(root))}


def settle_folders(root: Path, before: FolderTimes) -> None:
    """Folders in which something was made or removed carry the clock's time: they get fixed ones."""
    base = os.fsencode(root)
    for folder, at_ns in folder_times(root).items():
        if before.get(folder) != at_ns:
            stamp(folder, 10_000 + zlib.crc32(os.path.relpath(folder, base)) % 1_000)
