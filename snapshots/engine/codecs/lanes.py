"""The container of byte planes: each one a zstd frame or copied, with the bytes that belong to no whole word.

    phase u8   coded u8 (bit i: plane i is a zstd frame)   zero u16   length u32 * planes   edges   planes

`phase` bytes precede the first word; edges are those bytes and the ones behind the last word.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from snapshots.engine.codecs import zstd
from snapshots.engine.codecs.probe import is_noise
from snapshots.engine.errors import DataDamaged

Plane = npt.NDArray[np.uint8]
_HEAD = struct.Struct("<BBH")


def join(planes: Sequence[Plane], *, phase: int, edges: bytes) -> bytes:
    coded, parts = 0, []
    for number, plane in enumerate(planes):
        if is_noise(plane):
            parts.append(plane.data)
            continue
        frame = zstd.compress_plane(plane.data)
        if len(frame) < len(plane):
            coded |= 1 << number
            parts.append(memoryview(frame))
        else:
            parts.append(plane.data)
    lengths = struct.pack(f"<{len(parts)}I", *map(len, parts))
    return b"".join((_HEAD.pack(phase, coded, 0), lengths, edges, *parts))


def split(payload: memoryview, *, widths: Sequence[int], raw_length: int) -> tuple[int, bytes, list[Plane]]:
    """(phase, edges, planes). widths: the bytes of a word that each plane holds. Raises DataDamaged."""
    word, count = sum(widths), len(widths)
    head = _HEAD.size + 4 * count
    if len(payload) < head:
        raise DataDamaged("a block of byte planes is shorter than its header")
    phase, coded, zero = _HEAD.unpack_from(payload)
    lengths = struct.unpack_from(f"<{count}I", payload, _HEAD.size)
    if phase >= word or phase > raw_length or coded >> count or zero:
        raise DataDamaged("a block of byte planes has an impossible header")
    words = (raw_length - phase) // word
    edge = raw_length - words * word
    if len(payload) != head + edge + sum(lengths):
        raise DataDamaged(f"a block of byte planes has {len(payload)} bytes where its header says others")
    at = head + edge
    planes = []
    for number, (width, length) in enumerate(zip(widths, lengths, strict=True)):
        part = payload[at : at + length]
        at += length
        if coded >> number & 1:
            planes.append(np.frombuffer(zstd.decompress(part, raw_length=words * width), np.uint8))
        elif length == words * width:
            planes.append(np.frombuffer(part, np.uint8))
        else:
            raise DataDamaged(f"a byte plane has {length} bytes where {words * width} were expected")
    return phase, bytes(payload[head : head + edge]), planes
