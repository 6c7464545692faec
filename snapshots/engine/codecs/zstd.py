"""zstd frames that say how long they are, decoded only if that is what was expected."""

from __future__ import annotations

import threading

import zstandard

from snapshots.engine.errors import DataDamaged
from snapshots.engine.limits import ZSTD_WINDOW_MAX

FAST, DENSE = 1, 3
"""Levels. DENSE is nearly free on text and program code and wasted on weights."""

_mine = threading.local()


def compress(raw: bytes | bytearray | memoryview, *, level: int = FAST) -> bytes:
    """One standard frame with its content size in the header."""
    kept: dict[int, zstandard.ZstdCompressor] = _mine.__dict__.setdefault("compressors", {})
    if level not in kept:
        kept[level] = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)
    return kept[level].compress(raw)


def decompress(frame: bytes | memoryview, *, raw_length: int) -> bytes:
    """Exactly raw_length bytes, or DataDamaged. Nothing is allocated for a frame that announces another length."""
    if not hasattr(_mine, "decompressor"):
        _mine.decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_MAX)
    decompressor: zstandard.ZstdDecompressor = _mine.decompressor
    try:
        announced = zstandard.frame_content_size(frame)
        if announced != raw_length:
            raise DataDamaged(f"a zstd frame announces {announced} bytes where {raw_length} were expected")
        raw = decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DataDamaged(f"a zstd frame cannot be decoded: {error}") from None
    if len(raw) != raw_length:
        raise DataDamaged(f"a zstd frame decoded to {len(raw)} bytes where {raw_length} were expected")
    return raw
