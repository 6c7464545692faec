"""The tools that are compared. Each keeps all it needs between two snapshots in one home folder, which can be cloned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.snapshots.tools.base import Tool
from benchmarks.snapshots.tools.borg import Borg
from benchmarks.snapshots.tools.dormouse import Dormouse
from benchmarks.snapshots.tools.restic import Restic
from benchmarks.snapshots.tools.tar import Tar

MAKERS: dict[str, Callable[[Path], Tool]] = {
    "dormouse": Dormouse,
    "dormouse-encrypted": lambda home: Dormouse(home, encrypted=True),
    "restic": Restic,
    "borg": Borg,
    "tar-zstd-1": lambda home: Tar(home, level=1),
    "tar-zstd-3": lambda home: Tar(home, level=3),
}
