"""From what the probe saw to the codec that is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from snapshots.engine.codecs import Codec, delta, planes, zstd
from snapshots.engine.codecs.probe import Guess, probe

if TYPE_CHECKING:
    from snapshots.engine.codecs import Raw

_DELTA_WIDTH = {Guess.FLOATS16: 2, Guess.FLOATS32: 4}


def encode(raw: Raw, *, level: str) -> tuple[Codec, Raw]:
    array = np.frombuffer(raw, np.uint8)
    seen = probe(array)
    if seen.guess is Guess.NOISE:
        return Codec.RAW, raw
    if seen.guess is Guess.FLOATS16:
        return Codec.PLANES16, planes.encode16(array, phase=seen.phase)
    if seen.guess is Guess.FLOATS32:
        return Codec.PLANES32, planes.encode32(array, phase=seen.phase)
    return Codec.ZSTD, zstd.compress(raw, level=level)


def encode_delta(raw: Raw, base: Raw) -> bytes:
    array = np.frombuffer(raw, np.uint8)
    width = _DELTA_WIDTH.get(probe(array).guess, 1)
    return delta.encode(array, np.frombuffer(base, np.uint8), width=width)
