"""decode(encode(raw)) == raw, and nothing is decoded that does not say truly how long it is."""

from __future__ import annotations

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from snapshots.engine.codecs import KNOWN, Codec, decode, encode, zstd
from snapshots.engine.errors import DataDamaged
from snapshots.engine.limits import BLOCK_RAW_MAX, MIB
from tests.snapshots.engine.trees import noise

blocks = st.one_of(
    st.binary(min_size=1, max_size=500),
    st.builds(noise, st.integers(1, 2 * MIB), st.integers(0, 9)),
    st.builds(lambda piece, times: piece * times, st.binary(min_size=1, max_size=30), st.integers(1, 40_000)),
)


@given(raw=blocks, level=st.sampled_from([zstd.FAST, zstd.DENSE]))
def test_any_block_comes_back(raw: bytes, level: int) -> None:
    codec, payload, _ = encode(raw, level=level)
    assert codec in KNOWN
    assert len(payload) <= len(raw)
    assert bytes(decode(codec, memoryview(payload), len(raw))) == raw


def test_what_does_not_get_smaller_is_kept_raw() -> None:
    assert encode(noise(100_000)).codec is Codec.RAW
    assert encode(b"text " * 20_000).codec is Codec.ZSTD


@pytest.mark.slow
def test_the_largest_block_that_a_reader_accepts_is_decoded_within_the_window_limit() -> None:
    raw = noise(BLOCK_RAW_MAX // 2) * 2
    hardest = zstandard.ZstdCompressor(level=19, write_content_size=True).compress(raw)
    assert zstd.decompress(hardest, raw_length=len(raw)) == raw


@pytest.mark.parametrize("announced", [0, 1, 999, 1_001, 2**40])
def test_a_frame_of_another_length_is_refused(announced: int) -> None:
    with pytest.raises(DataDamaged, match="announces"):
        zstd.decompress(zstd.compress(b"x" * 1_000), raw_length=announced)


def test_a_frame_that_does_not_say_its_length_or_is_cut_or_goes_on_is_refused() -> None:
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 1_000)
    whole = zstd.compress(noise(1_000))
    for frame in (silent, whole[:-1], whole + b"x", whole + whole, b"", b"\0" * 20, whole[:9]):
        with pytest.raises(DataDamaged):
            zstd.decompress(frame, raw_length=1_000)


def test_an_unknown_codec_and_a_raw_block_of_another_length_are_refused() -> None:
    with pytest.raises(DataDamaged, match="newer version"):
        decode(Codec.ANS, memoryview(b"x"), 1)
    with pytest.raises(DataDamaged, match="raw block"):
        decode(Codec.RAW, memoryview(b"xy"), 1)
