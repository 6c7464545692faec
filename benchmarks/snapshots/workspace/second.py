"""What a day of work does to the tree: the second session, in place."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path

from benchmarks.snapshots.workspace.checkpoints import SECOND_STEP, write_checkpoint, write_latest
from benchmarks.snapshots.workspace.first import IMAGES, write_images
from benchmarks.snapshots.workspace.packages import SITE
from benchmarks.snapshots.workspace.seeds import rng, write
from benchmarks.snapshots.workspace.text import log_lines, records, source_file
from benchmarks.snapshots.workspace.times import folder_times, settle_folders, stamp

Stamp = Callable[[Path], None]


def work_a_day(root: Path, *, scale: float) -> None:
    """A new checkpoint beside the old, latest.pt trained on, logs longer, sources edited, a package installed, folders moved."""
    before, numbers = folder_times(root), count(1)

    def mark(path: Path) -> None:
        stamp(path, next(numbers))

    for path in write_checkpoint(root, SECOND_STEP, scale):
        mark(path)
    mark(write_latest(root, 2, scale))
    _append_logs(root, mark)
    _edit_sources(root, mark)
    (root / "src/project/pkg5").rename(root / "src/project/pkg5_renamed")
    (root / "models/sd-fp16").rename(root / "models/sd-fp16-moved")
    _shift_records(root / "data/notes.jsonl", mark)
    for path in write_images(root, int(IMAGES * scale), int(IMAGES * scale) + 150):
        mark(path)
    _install_package(root, mark)
    touched = (path for path in sorted((root / "venv/lib").rglob("*.py")) if path.is_file())
    for path in islice(touched, 200):
        mark(path)
    with (root / "data/memmap.dat").open("r+b") as file:
        file.seek(int(200e6 * scale))
        file.write(rng("more sparse").bytes(200_000))
    mark(root / "data/memmap.dat")
    settle_folders(root, before)


def edit_a_little(root: Path) -> None:
    """Three edits and a log that grew: what a background snapshot finds after ten minutes."""
    before = folder_times(root)
    for number in (3, 13, 43):
        path = root / f"src/project/pkg{number % 6}/mod_{number:03d}.py"
        _overwrite(path, 700, b"  # third session\n")
        stamp(path, 9_000 + number)
    with (root / "logs/train-0.log").open("ab") as file:
        file.write(log_lines("third", 60_000))
    stamp(root / "logs/train-0.log", 9_999)
    settle_folders(root, before)


def _append_logs(root: Path, mark: Stamp) -> None:
    for number in range(4):
        path = root / f"logs/train-{number}.log"
        with path.open("ab") as file:
            file.write(log_lines(f"more {number}", 500_000))
        mark(path)


def _edit_sources(root: Path, mark: Stamp) -> None:
    for number in range(0, 60, 5):
        path = root / f"src/project/pkg{number % 6}/mod_{number:03d}.py"
        _overwrite(path, 300, b"  # edited in session two\n")
        mark(path)
    for number in range(5):
        mark(write(root / f"src/project/new/mod_{number}.py", source_file(f"new {number}", 5_000)))
        gone = number * 7 + 1
        os.unlink(root / f"src/project/pkg{gone % 6}/mod_{gone:03d}.py")


def _shift_records(path: Path, mark: Stamp) -> None:
    """A kilobyte near the start moves everything behind it."""
    old = path.read_bytes()
    path.write_bytes(old[:5_000] + records("inserted", 1_000) + old[5_000:])
    mark(path)


def _install_package(root: Path, mark: Stamp) -> None:
    for number in range(240):
        path = root / f"{SITE}/newpkg/sub{number % 8}/m{number}.py"
        mark(write(path, source_file(f"package {number}", 300 + 60 * (number % 50))))


def _overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
