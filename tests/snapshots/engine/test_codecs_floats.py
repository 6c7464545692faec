"""Byte planes and deltas: every bit pattern, length and alignment comes back; real-looking floats get as small as they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.engine.codecs import Base, Codec, decode, delta, encode, encode_delta, planes
from snapshots.engine.codecs.probe import Guess, probe
from snapshots.engine.errors import DataDamaged
from snapshots.engine.limits import MIB
from tests.snapshots.engine.trees import noise

BASE_ID = b"b" * 32
lengths = st.one_of(st.integers(0, 70), st.integers(65_000, 200_003))


def floats(dtype: str, count: int, seed: int = 1) -> bytes:
    """Normal values of a trained layer's size, as the dtype holds them."""
    values = np.random.default_rng(seed).standard_normal(count, np.float32) * np.float32(0.02)
    if dtype == "bf16":
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype({"fp16": "<f2", "fp32": "<f4", "fp64": "<f8"}[dtype]).tobytes()


def back(encoded: tuple[Codec, bytes, bytes], length: int, base: bytes | None = None) -> bytes:
    return bytes(decode(encoded[0], memoryview(encoded[1]), length, base=base))


def as_array(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, np.uint8)


@given(length=lengths, seed=st.integers(0, 9), width=st.sampled_from([2, 4]), phase=st.integers(0, 3))
def test_planes_of_any_bytes_come_back_at_any_length_and_phase(
    length: int, seed: int, width: int, phase: int
) -> None:
    raw, phase = noise(length, seed), min(phase % width, length)
    encode_to, decode_from = {2: (planes.encode16, planes.decode16), 4: (planes.encode32, planes.decode32)}[
        width
    ]
    payload = encode_to(as_array(raw), phase=phase)
    assert bytes(decode_from(memoryview(payload), length)) == raw


@given(length=lengths, seed=st.integers(0, 9), width=st.sampled_from([1, 2, 4]), moved=st.floats(0, 1))
def test_a_delta_of_any_two_chunks_comes_back(length: int, seed: int, width: int, moved: float) -> None:
    base, other = noise(length, seed), noise(length, seed + 1)
    cut = int(length * moved)
    raw = base[:cut] + other[cut:]
    payload = delta.encode(as_array(raw), as_array(base), width=width)
    assert bytes(delta.decode(memoryview(payload), length, base)) == raw


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32", "fp64"])
@pytest.mark.parametrize("shift", [0, 1, 2, 3, 5])
@pytest.mark.parametrize(
    "special", [b"", b"\x00" * 4_096, b"\xff" * 4_096, b"\x80\x7f\x00\x80\xc0\xff" * 700]
)
def test_floats_come_back_wherever_they_are_cut_and_whatever_stands_between(
    dtype: str, shift: int, special: bytes
) -> None:
    """Zeros, NaNs with every payload, infinities, minus zero: bits are bits."""
    values = floats(dtype, 60_000)
    raw = (b"head" + values[: len(values) // 2] + special + values[len(values) // 2 :])[shift:]
    assert back(encode(raw), len(raw)) == raw


@pytest.mark.parametrize(
    ("dtype", "codec", "kept"),
    [("bf16", Codec.PLANES16, 0.68), ("fp16", Codec.PLANES16, 0.88), ("fp32", Codec.PLANES32, 0.84)],
)
@pytest.mark.parametrize("shift", range(4))
def test_weights_are_recognized_without_a_header_and_kept_small(
    dtype: str, codec: Codec, kept: float, shift: int
) -> None:
    raw = floats(dtype, MIB // 2)[shift:]
    found = encode(raw)
    assert found.codec is codec
    assert len(found.payload) <= kept * len(raw)
    assert back(found, len(raw)) == raw


def test_moments_that_are_mostly_zero_rows_are_recognized() -> None:
    raw = bytearray(floats("fp32", 262_144))
    for row in range(0, len(raw), 8_192):
        raw[row : row + 3_072] = bytes(3_072)
    found = encode(bytes(raw))
    assert found.codec is Codec.PLANES32
    assert len(found.payload) < 0.60 * len(raw)
    assert back(found, len(raw)) == bytes(raw)


def test_text_noise_and_zeros_are_no_floats() -> None:
    assert probe(as_array(b"def name(self, other=1):\n    return other\n" * 9_000)).guess is Guess.OTHER
    assert probe(as_array(noise(MIB))).guess is Guess.NOISE
    assert probe(as_array(bytes(MIB))).guess is Guess.OTHER


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_tensor_whose_rows_moved_here_and_there_is_a_small_delta(dtype: str) -> None:
    base = floats(dtype, MIB // 4)
    moved = bytearray(base)
    for row in range(0, len(base), 40_960):
        moved[row : row + 4_096] = floats(dtype, 4_096, 2)[:4_096]
    found = encode_delta(bytes(moved), Base(BASE_ID, base))
    assert (found.codec, found.base_id) == (Codec.DELTA, BASE_ID)
    assert len(found.payload) < 0.12 * len(base)
    assert back(found, len(base), base) == bytes(moved)


def test_a_delta_that_does_not_pay_is_not_made() -> None:
    found = encode_delta(floats("bf16", 100_000), Base(BASE_ID, noise(200_000)))
    assert (found.codec, found.base_id) == (Codec.PLANES16, b"")


@given(seed=st.integers(0, 5_000), codec=st.sampled_from([Codec.PLANES16, Codec.PLANES32, Codec.DELTA]))
def test_a_broken_payload_is_refused_or_decoded_to_the_announced_length(seed: int, codec: Codec) -> None:
    """Chunk ids find wrong bytes; a decoder must only never crash, hang or allocate more than was announced."""
    raw, base = floats("fp32", 20_000), floats("fp32", 20_000, 2)
    good = {
        Codec.PLANES16: lambda: planes.encode16(as_array(raw), phase=0),
        Codec.PLANES32: lambda: planes.encode32(as_array(raw), phase=1),
        Codec.DELTA: lambda: delta.encode(as_array(raw), as_array(base), width=4),
    }[codec]()
    chance = np.random.default_rng(seed)
    bad = bytearray(good)
    for _ in range(3):
        bad[int(chance.integers(0, 64 if seed % 2 else len(bad)))] = int(chance.integers(0, 256))
    if seed % 3 == 0:
        bad = bad[: int(chance.integers(0, len(bad)))]
    try:
        found = decode(codec, memoryview(bytes(bad)), len(raw), base=base)
    except DataDamaged:
        return
    assert len(found) == len(raw)
