"""Where files are cut. Cuts follow the file's own offsets, so that what did not change gives the same chunks again."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from snapshots.engine.limits import CHUNK_BYTES, SPAN_BYTES

SPARSE_FROM_BYTES = 64 << 10


class Region(NamedTuple):
    """A run of a file: data, or a hole."""

    offset: int
    length: int
    is_hole: bool


def is_sparse(facts: os.stat_result) -> bool:
    """Whether looking for holes can pay: fewer blocks than bytes (also true of compressed file systems: no harm)."""
    return facts.st_size >= SPARSE_FROM_BYTES and facts.st_blocks * 512 < facts.st_size


def regions(fd: int, facts: os.stat_result) -> list[Region]:
    """The file's data and holes, without gaps, up to its size."""
    size = facts.st_size
    if not size:
        return []
    if not (is_sparse(facts) and hasattr(os, "SEEK_HOLE")):
        return [Region(0, size, False)]
    found, at = [], 0
    try:
        while at < size:
            data = _seek(fd, at, os.SEEK_DATA, size)
            if data > at:
                found.append(Region(at, data - at, True))
            if data < size:
                end = _seek(fd, data, os.SEEK_HOLE, size)
                found.append(Region(data, end - data, False))
                at = end
            else:
                at = size
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return [Region(0, size, False)]  # a file system that knows no holes
    return found


def _seek(fd: int, at: int, whence: int, size: int) -> int:
    try:
        return min(os.lseek(fd, at, whence), size)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole from here on
            return size
        raise


def cuts(region: Region) -> Iterator[tuple[int, int]]:
    """(offset, length) of a data region's chunks: at multiples of CHUNK_BYTES of the file, and at the region's edges."""
    at, end = region.offset, region.offset + region.length
    while at < end:
        length = min(CHUNK_BYTES - at % CHUNK_BYTES, end - at)
        yield at, length
        at += length


def spans(data: Iterable[Region]) -> Iterator[list[tuple[int, int]]]:
    """Chunks of all data regions, in runs of about SPAN_BYTES that one thread reads."""
    run: list[tuple[int, int]] = []
    size = 0
    for region in data:
        for cut in cuts(region):
            run.append(cut)
            size += cut[1]
            if size >= SPAN_BYTES:
                yield run
                run, size = [], 0
    if run:
        yield run
