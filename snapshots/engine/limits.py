"""Numbers: what the format allows, what a reader accepts, what a writer aims at, how much of a machine may be used."""

from __future__ import annotations

import os
from dataclasses import dataclass

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

# -- what a reader refuses to go beyond, before it allocates (format 10)
ROOT_STORED_MAX, ROOT_RAW_MAX = 16 * MIB, 64 * MIB
SEGMENT_STORED_MAX, SEGMENT_RAW_MAX = 32 * MIB, 128 * MIB
SEGMENTS_MAX = 65_536
PACK_BYTES_MAX = 256 * MIB
BLOCK_RAW_MAX = 8 * MIB
BLOCK_OVERHEAD_MAX = 4 * KIB
BLOCK_CHUNKS_MAX = 16_384
CHUNK_BYTES_MAX = 4 * MIB
ZSTD_WINDOW_MAX = 8 * MIB
PATH_BYTES_MAX, PATH_NAMES_MAX, NAME_BYTES_MAX, SYMLINK_BYTES_MAX = 16_384, 255, 255, 4_095
XATTRS_MAX, XATTR_VALUE_MAX, XATTRS_BYTES_MAX = 64, 64 * KIB, 256 * KIB

# -- what a writer aims at
CHUNK_BYTES = 1 * MIB
SOLID_FILE_MAX = 512 * KIB
SOLID_BLOCK_BYTES = 2 * MIB
SOLID_BLOCK_FILES = 2_048
PACK_BYTES = 32 * MIB
SPAN_BYTES = 16 * MIB
"""A big file is read in spans of this size, so that several threads can read one file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one snapshot may hold. A writer refuses to make what a reader with the same limits would refuse to read."""

    entries: int = 20_000_000
    file_bytes: int = 16 * TIB
    total_bytes: int = 64 * TIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much of the machine an operation may use.

    memory_bytes bounds the packs on their way to the store, fetch_bytes the ranges that a restore has fetched and not yet
    written. Packs being filled (one of each sort) and a block or two for each worker come on top.
    """

    streams: int = 32
    memory_bytes: int = 384 * MIB
    fetch_bytes: int = 192 * MIB
    pack_bytes: int = PACK_BYTES
    workers: int = min(8, os.cpu_count() or 2)
    read_attempts: int = 3
    retry_pause_s: float = 0.2
    rounds: int = 3
    """A tree whose folders change under the reader is looked through this often, then refused."""


DEFAULT_LIMITS = Limits()
DEFAULT_EFFORT = Effort()
