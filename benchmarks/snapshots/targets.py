"""What is asked of the engine, as ratios within one run: (measure, against, of what, at most, stretch)."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.snapshots.measures import (
    FIRST,
    NEW_BOX,
    SECOND,
    TO_DISK,
    TO_MEMORY,
    UNCHANGED,
    Result,
    Results,
)

RESTIC, BORG, TAR = "restic", "borg", "tar+zstd-1"
LOCAL_MEMORY_BYTES = 512 * 1024 * 1024


class Target(NamedTuple):
    measure: str
    against: str
    of: str
    at_most: float
    stretch: float | None = None


TARGETS = (
    Target(FIRST, RESTIC, "wall_s", 0.35, 0.25),
    Target(FIRST, TAR, "wall_s", 0.75, 0.55),
    Target(FIRST, RESTIC, "stored_bytes", 0.86, 0.83),
    Target(FIRST, BORG, "stored_bytes", 1.0, 0.93),
    Target(SECOND, RESTIC, "wall_s", 0.40, 0.25),
    Target(SECOND, RESTIC, "stored_bytes", 0.85, 0.25),
    Target(UNCHANGED, RESTIC, "wall_s", 0.5, 0.35),
    Target(NEW_BOX, RESTIC, "wall_s", 0.2),
    Target(TO_MEMORY, RESTIC, "wall_s", 0.5, 0.35),
    Target(TO_MEMORY, TAR, "wall_s", 0.75, 0.55),
    Target(TO_DISK, RESTIC, "wall_s", 0.8),
    Target(TO_DISK, TAR, "wall_s", 0.7),
)


def ratio(target: Target, results: Results, *, ours: str) -> float | None:
    """None where one of the two was not measured."""
    mine, theirs = results.of(target.measure, ours), results.of(target.measure, target.against)
    if mine is None or theirs is None:
        return None
    return _value(mine, target.of) / max(_value(theirs, target.of), 1e-9)


def _value(result: Result, of: str) -> float:
    return float(getattr(result, of))
