"""How a block's bytes are kept: a number from the format, an encoder, a decoder. decode(encode(raw)) == raw, always.

To add a codec: a module beside zstd.py, a row in DECODERS, a branch in encode(); the numbers are in the format's section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from snapshots.engine.codecs import zstd
from snapshots.engine.errors import DataDamaged

Raw = bytes | bytearray | memoryview
Decoder = Callable[[memoryview, int], bytes | memoryview]
WORTH_IT = 0.98
"""A block that does not get smaller than this is kept raw: decoding it would cost more than it saves."""


class Codec(IntEnum):
    RAW = 0
    ZSTD = 1
    PLANES16 = 2
    PLANES32 = 3
    DELTA = 4
    ANS = 5


class Encoded(NamedTuple):
    codec: Codec
    payload: Raw


def encode(raw: Raw, *, level: int = zstd.FAST) -> Encoded:
    """The smaller of zstd and raw. `raw` must not change while the result is in use."""
    packed = zstd.compress(raw, level=level)
    if len(packed) <= len(raw) * WORTH_IT:
        return Encoded(Codec.ZSTD, packed)
    return Encoded(Codec.RAW, raw)


def decode(codec: int, payload: memoryview, raw_length: int) -> bytes | memoryview:
    """Exactly raw_length bytes, or DataDamaged; never allocates more than that."""
    decoder = DECODERS.get(codec)
    if decoder is None:
        raise DataDamaged(f"codec {codec} is unknown: a newer version wrote this block")
    return decoder(payload, raw_length)


def _decode_raw(payload: memoryview, raw_length: int) -> memoryview:
    if len(payload) != raw_length:
        raise DataDamaged(f"a raw block holds {len(payload)} bytes where {raw_length} were expected")
    return payload


def _decode_zstd(payload: memoryview, raw_length: int) -> bytes:
    return zstd.decompress(payload, raw_length=raw_length)


DECODERS: dict[int, Decoder] = {Codec.RAW: _decode_raw, Codec.ZSTD: _decode_zstd}
