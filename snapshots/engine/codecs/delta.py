"""The XOR of a chunk with an older one of the same length: what did not move is zeros, and zeros cost nothing.

base id [32]   width u8   container of `width` byte planes (lanes), one byte of a word each, phase 0
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from snapshots.engine.codecs import lanes
from snapshots.engine.errors import DataDamaged
from snapshots.engine.keys import ID_BYTES

WIDTHS = (1, 2, 4)


def encode(raw: npt.NDArray[np.uint8], base: npt.NDArray[np.uint8], base_id: bytes, *, width: int) -> bytes:
    """base: as long as raw. width: of the words whose bytes are put beside their like."""
    changed = raw ^ base
    end = len(changed) // width * width
    planes = [np.ascontiguousarray(changed[lane:end:width]) for lane in range(width)]
    return base_id + bytes((width,)) + lanes.join(planes, phase=0, edges=changed[end:].tobytes())


def decode(payload: memoryview, raw_length: int, base: bytes | memoryview) -> memoryview:
    """payload: longer than an id. base: the bytes of the chunk that it names, checked. Raises DataDamaged."""
    width = payload[ID_BYTES]
    if width not in WIDTHS or len(base) != raw_length:
        raise DataDamaged("a delta has an impossible width, or a base of another length")
    _, edges, planes = lanes.split(payload[ID_BYTES + 1 :], widths=(1,) * width, raw_length=raw_length)
    raw = np.empty(raw_length, np.uint8)
    end = raw_length // width * width
    for lane, plane in enumerate(planes):
        raw[lane:end:width] = plane
    raw[end:] = np.frombuffer(edges, np.uint8)
    raw ^= np.frombuffer(base, np.uint8)
    return raw.data
