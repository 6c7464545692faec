"""The snapshot engine beside restic, borg and tar with zstd: one tree, one run, in turn. Prints its table.

    nice .venv/bin/python -m benchmarks.snapshots [--scale 0.2] [--no-packages] [--rounds 3]
        [--tools dormouse restic borg tar-zstd-1] [--measures first second] [--folder DIR] [--memory /dev/shm]

restic, borg and zstd are looked for on the PATH; those that are missing are left out and said so. Needs numpy for the
workspace. At scale 1.0 it takes about 3.5 GB for the tree, as much again in the cache of packages, 10 GB for the repositories, and 4 GB
of memory for the restores.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.snapshots.measures import MEASURES, Course
from benchmarks.snapshots.table import show
from benchmarks.snapshots.tools import MAKERS
from benchmarks.snapshots.tools.base import Tool

NEEDS = {"restic": "restic", "borg": "borg", "tar-zstd-1": "zstd", "tar-zstd-3": "zstd"}


def main() -> None:
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="dormouse-bench-", dir=options.folder))
    memory = Path(tempfile.mkdtemp(prefix="dormouse-bench-", dir=options.memory))
    try:
        _run(options, folder, memory)
    finally:
        shutil.rmtree(memory, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def _run(options: argparse.Namespace, folder: Path, memory: Path) -> None:
    from benchmarks.snapshots.workspace.first import build

    workspace = folder / "box/workspace"
    print(
        f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )
    build(workspace, scale=options.scale, packages=not options.no_packages, cache=options.cache)
    read_bytes = _allocated_bytes(workspace)
    tools = _tools(options.tools, folder)
    names = [tool.name for tool in tools]
    print(
        f"workspace: {read_bytes / 1e6:.0f} MB allocated, scale {options.scale}; "
        + "; ".join(t.version() for t in tools)
    )
    course = Course(
        workspace, memory, tools, rounds=options.rounds, scale=options.scale, rest_s=options.rest_s
    )
    results = course.run(options.measures)
    print("\n" + show(results, names, ours=names[0], read_bytes=read_bytes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="benchmarks.snapshots"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of everything but the packages (default 1.0)"
    )
    parser.add_argument(
        "--no-packages", action="store_true", help="no virtual environment, no real weights, nothing fetched"
    )
    parser.add_argument("--rounds", type=int, default=3, help="each figure is the median of so many")
    parser.add_argument(
        "--tools", nargs="+", choices=list(MAKERS), default=["dormouse", "restic", "borg", "tar-zstd-1"]
    )
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure on")
    parser.add_argument(
        "--rest-s", type=float, default=60.0, help="between a change of the tree and the next take"
    )
    parser.add_argument(
        "--memory", type=Path, default=Path("/dev/shm"), help="a tmpfs for the restore to memory"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache/dormouse-bench", help="where packages are kept"
    )
    return parser.parse_args()


def _tools(names: list[str], folder: Path) -> list[Tool]:
    found = []
    for name in names:
        if name in NEEDS and shutil.which(NEEDS[name]) is None:
            print(f"{name} is left out: there is no {NEEDS[name]} on the PATH", file=sys.stderr)
            continue
        found.append(MAKERS[name](folder / "tools" / name))
    return found


def _allocated_bytes(root: Path) -> int:
    """What has to be read: each inode once, holes not at all."""
    sizes = {}
    for at, _, names in os.walk(root):
        for name in names:
            facts = os.lstat(os.path.join(at, name))
            sizes[facts.st_ino] = min(facts.st_size, facts.st_blocks * 512)
    return sum(sizes.values())


if __name__ == "__main__":
    main()
