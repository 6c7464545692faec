"""Which bytes of which packs a set of chunks needs: few requests, little that nobody wants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from snapshots.engine.index import ChunkIndex, Place
from snapshots.engine.limits import KIB, MIB
from snapshots.engine.pack import BlockRecord, PackRecord

GAP_BYTES = 256 * KIB
"""Unwanted bytes between two blocks that are read along rather than asked around."""
RANGE_BYTES = 8 * MIB


class Range(NamedTuple):
    """One request: these blocks, in order, and what lies between them."""

    pack: PackRecord
    offset: int
    length: int
    blocks: tuple[BlockRecord, ...]


def plan_ranges(index: ChunkIndex, chunk_ids: Iterable[bytes]) -> list[Range]:
    """Ranges that cover every chunk, in the order of the packs. Raises KeyError for a chunk that no pack has."""
    return ranges_of(index, {index.place(chunk_id) for chunk_id in chunk_ids})


def ranges_of(index: ChunkIndex, places: Iterable[Place]) -> list[Range]:
    """Ranges that cover these blocks, in the order of the packs."""
    wanted: defaultdict[int, set[int]] = defaultdict(set)
    for place in places:
        wanted[place.pack].add(place.block)
    ranges = []
    for number in sorted(wanted):
        record = index.packs[number]
        ranges += _cut(record, [record.blocks[position] for position in sorted(wanted[number])])
    return ranges


def _cut(record: PackRecord, blocks: list[BlockRecord]) -> list[Range]:
    found: list[Range] = []
    run: list[BlockRecord] = []
    for block in blocks:
        if run:
            end = run[-1].offset + run[-1].span
            if block.offset - end > GAP_BYTES or block.offset + block.span - run[0].offset > RANGE_BYTES:
                found.append(_range(record, run))
                run = []
        run.append(block)
    return [*found, _range(record, run)] if run else found


def _range(record: PackRecord, run: list[BlockRecord]) -> Range:
    offset = run[0].offset
    return Range(record, offset, run[-1].offset + run[-1].span - offset, tuple(run))
