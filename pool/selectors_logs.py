"""An attempt's output by offset, wherever its bytes are: in the database, in the store, or nowhere any more."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import zstandard

from pool.log_cap import Extent
from pool.models import Dispatch
from pool.states import OPEN
from snapshots.services.objects import object_read

LOG_PIECE_BYTES = 256 * 1024
PARTS_KEPT = 4
PART_LIMIT_BYTES = 64 << 20
"""What a stored piece may unpack to: far more than any has."""


@dataclass(frozen=True)
class LogPiece:
    """Output of a dispatch from `offset` on. next_offset: where to go on. done: there will be no more.

    is_cut: what follows its last byte in the stream is not kept, so that a character that it ends within is never whole.
    """

    offset: int
    data: bytes
    next_offset: int
    done: bool
    is_cut: bool = False


def extent_of(dispatch: Dispatch) -> Extent:
    """Where its output ends, and what was cut out of it."""
    return Extent(end=dispatch.log_bytes, cut_from=dispatch.log_cut_from, cut_to=dispatch.log_cut_to)


def log_read(dispatch: Dispatch, *, offset: int, limit: int = LOG_PIECE_BYTES) -> LogPiece:
    """At most `limit` bytes of a dispatch's output from `offset` on; none where it has not got that far.

    Within what was cut out, a line says how much that is, and next_offset is behind it. Raises Busy where the store that
    has the bytes cannot be asked.
    """
    over = dispatch.state not in OPEN
    extent = extent_of(dispatch)
    if dispatch.files_gone_at is not None:
        line = b"[this output was let go %s]\n" % f"{dispatch.files_gone_at:%Y-%m-%d}".encode()
        data = line if offset < extent.end else b""
        return LogPiece(offset, data, max(offset, extent.end), done=True)
    if extent.holds_out(offset):
        line = f"\n[{extent.missing} bytes of output were cut out here]\n".encode()
        return LogPiece(offset, line, extent.cut_to, done=False)
    if extent.missing and offset < extent.cut_from:
        limit = min(limit, extent.cut_from - offset)
    data = _read(dispatch, offset, limit)
    end = offset + len(data)
    is_cut = extent.missing > 0 and end == extent.cut_from
    return LogPiece(offset, data, end, done=over and end >= extent.end, is_cut=is_cut)


def _read(dispatch: Dispatch, offset: int, limit: int) -> bytes:
    """All that there is without a gap, through as many stored pieces as it takes and into the database."""
    data = bytearray()
    while len(data) < limit:
        at, wanted = offset + len(data), limit - len(data)
        more = _stored(dispatch, at, wanted) if at < dispatch.log_stored_bytes else b""
        more = more or chunks_read(dispatch, offset=at, limit=wanted)
        if not more:
            break
        data += more
    return bytes(data)


def chunks_read(dispatch: Dispatch, *, offset: int, limit: int) -> bytes:
    """What the database has of it from `offset` on without a gap, at most `limit` bytes."""
    before = (
        dispatch.chunks.filter(offset__lte=offset).order_by("-offset").values_list("offset", flat=True)[:1]
    )
    begin = next(iter(before), offset)
    data = bytearray()
    for chunk in dispatch.chunks.filter(offset__gte=begin, offset__lt=offset + limit).order_by("offset"):
        at = offset + len(data)
        if chunk.offset > at:
            break
        data += bytes(chunk.data)[at - chunk.offset :]
    return bytes(data[:limit])


def _stored(dispatch: Dispatch, offset: int, limit: int) -> bytes:
    part = dispatch.log_parts.filter(offset__lte=offset).order_by("-offset").first()
    if part is None or offset >= part.offset + part.length:
        return b""
    begin = offset - part.offset
    return _unpacked(part.key)[begin : begin + limit]


@lru_cache(maxsize=PARTS_KEPT)
def _unpacked(key: str) -> bytes:
    """A piece whole: whoever reads one part of it comes back for the next. It never changes."""
    return zstandard.ZstdDecompressor().decompress(object_read(key), max_output_size=PART_LIMIT_BYTES)
