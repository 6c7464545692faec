"""How a block's bytes are kept: a number from the format, an encoder, a decoder. decode(encode(raw)) == raw, always.

Which codec a block gets is measured on a sample of it (probe). numpy is imported by the first block that needs it: a session
in which nothing changed never does, and saves a tenth of a second.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from snapshots.engine.codecs import zstd
from snapshots.engine.errors import DataDamaged
from snapshots.engine.limits import KIB

Raw = bytes | bytearray | memoryview
WORTH_IT = 0.98
"""A block that does not get smaller than this is kept raw: decoding it would cost more than it saves."""
DELTA_WORTH_IT = 0.6
"""A delta ties its chunk to another one for ever, so it must be well below what the chunk takes by itself."""
PROBED_FROM_BYTES = 64 * KIB


class Codec(IntEnum):
    RAW = 0
    ZSTD = 1
    PLANES16 = 2
    PLANES32 = 3
    DELTA = 4
    ANS = 5


KNOWN = frozenset({Codec.RAW, Codec.ZSTD, Codec.PLANES16, Codec.PLANES32, Codec.DELTA})


class Encoded(NamedTuple):
    """base_id: of a delta, else empty."""

    codec: Codec
    payload: Raw
    base_id: bytes = b""


class Base(NamedTuple):
    """A chunk of the same length that may be built upon: its id, and its bytes, checked against it."""

    chunk_id: bytes
    raw: Raw


def encode(raw: Raw, *, level: str = zstd.FAST) -> Encoded:
    """What suits these bytes: raw, zstd or byte planes. `raw` must not change while the result is in use."""
    if len(raw) < PROBED_FROM_BYTES:
        return _smaller(Codec.ZSTD, zstd.compress(raw, level=level), raw)
    from snapshots.engine.codecs import choice

    return _smaller(*choice.encode(raw, level=level), raw)


def encode_delta(raw: Raw, base: Base, *, level: str = zstd.FAST) -> Encoded:
    """As a delta against `base` where that pays, else as encode()."""
    from snapshots.engine.codecs import choice

    payload = choice.encode_delta(raw, base.raw)
    if len(payload) < len(raw) * DELTA_WORTH_IT / 2:
        return Encoded(Codec.DELTA, payload, base.chunk_id)
    plain = encode(raw, level=level)
    if len(payload) < len(plain.payload) * DELTA_WORTH_IT:
        return Encoded(Codec.DELTA, payload, base.chunk_id)
    return plain


def decode(codec: int, payload: memoryview, raw_length: int, *, base: Raw | None = None) -> Raw:
    """Exactly raw_length bytes, or DataDamaged; never allocates more than that. base: of a delta, checked against its id."""
    if codec == Codec.RAW:
        if len(payload) != raw_length:
            raise DataDamaged(f"a raw block holds {len(payload)} bytes where {raw_length} were expected")
        return payload
    if codec == Codec.ZSTD:
        return zstd.decompress(payload, raw_length=raw_length)
    if codec not in KNOWN:
        raise DataDamaged(f"codec {codec} is unknown: a newer version wrote this block")
    from snapshots.engine.codecs import delta, planes

    if codec == Codec.PLANES16:
        return planes.decode16(payload, raw_length)
    if codec == Codec.PLANES32:
        return planes.decode32(payload, raw_length)
    if base is None:
        raise DataDamaged("a delta cannot be decoded without its base")
    return delta.decode(payload, raw_length, memoryview(base))


def _smaller(codec: Codec, packed: Raw, raw: Raw) -> Encoded:
    if codec is not Codec.RAW and len(packed) <= len(raw) * WORTH_IT:
        return Encoded(codec, packed)
    return Encoded(Codec.RAW, raw)
