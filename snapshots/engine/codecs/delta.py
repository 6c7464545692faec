"""The XOR of a chunk with an older one of the same length: what did not move is zeros, and zeros cost nothing.

base id [32]   width u8   container of `width` byte planes (lanes), one byte of a word each, phase 0
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from snapshots.engine.codecs import lanes
from snapshots.engine.errors import DataDamaged

WIDTHS = (1, 2, 4)


def encode(raw: npt.NDArray[np.uint8], base: npt.NDArray[np.uint8], *, width: int) -> bytes:
    """base: as long as raw. width: of the words whose bytes are put beside their like."""
    changed = raw ^ base
    end = len(changed) // width * width
    planes = [np.ascontiguousarray(changed[lane:end:width]) for lane in range(width)]
    return bytes((width,)) + lanes.join(planes, phase=0, edges=changed[end:].tobytes())


def decode(payload: memoryview, raw_length: int, base: bytes | memoryview) -> memoryview:
    """base: the bytes of the chunk that the block names, checked. Raises DataDamaged."""
    width = payload[0] if payload else 0
    if width not in WIDTHS or len(base) != raw_length:
        raise DataDamaged("a delta has an impossible width, or a base of another length")
    _, edges, planes = lanes.split(payload[1:], widths=(1,) * width, raw_length=raw_length)
    raw = np.empty(raw_length, np.uint8)
    end = raw_length // width * width
    for lane, plane in enumerate(planes):
        raw[lane:end:width] = plane
    raw[end:] = np.frombuffer(edges, np.uint8)
    raw ^= np.frombuffer(base, np.uint8)
    return raw.data
