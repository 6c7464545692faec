"""Older versions of a file that lie beside it: step-1000/model.safetensors for step-2000/model.safetensors.

A training run writes every checkpoint anew. Rows that moved are scattered all over the file, so hardly a chunk survives as it was;
but each differs little from its elder at the same offset.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from snapshots.engine.entry import Extent, Kind, decode_entry
from snapshots.engine.limits import SOLID_FILE_MAX
from snapshots.engine.statindex import Seen

TRIED = 3
_NUMBERS = re.compile(rb"[0-9]+")

Likeness = tuple[bytes, int]


class Sibling(NamedTuple):
    """chunks: by the offset at which each begins."""

    path: bytes
    chunks: dict[int, Extent]


class Siblings:
    """Finds files of the last snapshot with the same size, and the same name but for numbers in it."""

    def __init__(self, rows: Iterable[Seen]) -> None:
        self._alike: defaultdict[Likeness, list[Seen]] = defaultdict(list)
        for row in rows:
            if row.identity[2] > SOLID_FILE_MAX:
                self._alike[_likeness(row.path, row.identity[2])].append(row)

    def of(self, path: bytes, size: int) -> list[Sibling]:
        """At most three, those whose whole path is alike first, then the youngest."""
        rows = [row for row in self._alike.get(_likeness(path, size), ()) if row.path != path]
        shape = _without_numbers(path)
        rows.sort(key=lambda row: (_without_numbers(row.path) != shape, -row.identity[3]))
        found = []
        for row in rows[:TRIED]:
            entry = decode_entry(row.raw)
            if entry.kind is Kind.FILE:
                found.append(Sibling(row.path, _by_offset(entry.extents)))
        return found


def _by_offset(extents: tuple[Extent, ...]) -> dict[int, Extent]:
    found, at = {}, 0
    for extent in extents:
        found[at] = extent
        at += extent[1]
    return found


def _likeness(path: bytes, size: int) -> Likeness:
    return _without_numbers(path.rpartition(b"/")[2]), size


def _without_numbers(path: bytes) -> bytes:
    return _NUMBERS.sub(b"#", path)
