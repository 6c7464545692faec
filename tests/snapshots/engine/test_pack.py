"""Packs: what is put in is found again, with the manifest's record or without any; impossible records are refused."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.engine.codecs import encode
from snapshots.engine.errors import DataDamaged, ManifestRefused
from snapshots.engine.fields import unpack
from snapshots.engine.keys import OwnerKey
from snapshots.engine.limits import BLOCK_CHUNKS_MAX, CHUNK_BYTES_MAX, PACK_BYTES_MAX
from snapshots.engine.pack import (
    PackBuilder,
    PackRecord,
    make_block,
    open_block,
    parse_pack_record,
    scan_pack,
)
from tests.snapshots.engine.trees import KEY, OTHER_KEY, noise

OWNER = OwnerKey(KEY)
PACK_ID = bytes(range(16))
chunks = st.one_of(
    st.binary(min_size=1, max_size=300), st.builds(noise, st.integers(1, 50_000), st.integers(0, 5))
)
packs = st.lists(st.lists(chunks, min_size=1, max_size=6), min_size=1, max_size=5)


def pack_of(blocks: list[list[bytes]]) -> tuple[PackRecord, bytes]:
    builder = PackBuilder(PACK_ID)
    for block in blocks:
        builder.add(
            make_block(encode(b"".join(block)), [(OWNER.chunk_id(chunk), len(chunk)) for chunk in block])
        )
    assert builder.length == len(builder.seal()[1])
    return builder.seal()


@given(blocks=packs)
def test_every_chunk_of_any_pack_is_found_again(blocks: list[list[bytes]]) -> None:
    record, data = pack_of(blocks)
    assert parse_pack_record(unpack(record.encode())) == record
    assert scan_pack(data, pack_id=PACK_ID) == record
    assert record.sha256 == hashlib.sha256(data).digest()
    for block, wanted in zip(record.blocks, blocks, strict=True):
        span = memoryview(data)[block.offset : block.offset + block.span]
        assert [bytes(raw) for _, raw in open_block(block, span, OWNER)] == wanted


def test_only_wanted_chunks_are_hashed_and_given_out() -> None:
    record, data = pack_of([[b"one", b"two", b"three"]])
    (block,) = record.blocks
    found = open_block(
        block, memoryview(data)[block.offset :], OWNER, wanted=frozenset({OWNER.chunk_id(b"two")})
    )
    assert [(chunk.offset, bytes(raw)) for chunk, raw in found] == [(3, b"two")]


def test_any_changed_byte_of_a_block_is_noticed() -> None:
    record, data = pack_of([[b"some text that packs, packs, packs, packs, packs well"], [noise(50)]])
    for block in record.blocks:
        span = data[block.offset : block.offset + block.span]
        for at in range(len(span)):
            bad = span[:at] + bytes([span[at] ^ 4]) + span[at + 1 :]
            with pytest.raises(DataDamaged):
                list(open_block(block, memoryview(bad), OWNER))
        for bad in (span[:-1], span + b"x", b""):
            with pytest.raises(DataDamaged):
                list(open_block(block, memoryview(bad), OWNER))


def test_a_block_of_another_owner_is_not_accepted() -> None:
    record, data = pack_of([[b"text"]])
    (block,) = record.blocks
    with pytest.raises(DataDamaged, match="chunk"):
        list(open_block(block, memoryview(data)[block.offset :], OwnerKey(OTHER_KEY)))


def test_two_owners_have_no_chunk_id_in_common() -> None:
    assert OwnerKey(KEY).chunk_id(b"the same file") != OwnerKey(OTHER_KEY).chunk_id(b"the same file")


def test_no_digest_for_one_purpose_is_one_for_another() -> None:
    key, data = OwnerKey(KEY), b"anything"
    digests = {key.chunk_id(data), key.segment_id(data), key.plain_id(data), key.seal(data)}
    hasher = key.content_hasher()
    hasher.update(data)
    assert len(digests | {hasher.digest()}) == 5


@pytest.mark.parametrize("cut", [0, 10, 23, 24, 30, 60, -1])
def test_a_pack_that_breaks_off_is_noticed_when_scanned(cut: int) -> None:
    _, data = pack_of([[noise(100)], [noise(100, 2)]])
    if cut == 24:
        assert scan_pack(data[:24], pack_id=PACK_ID).blocks == ()
        return
    with pytest.raises(DataDamaged):
        scan_pack(data[:cut], pack_id=PACK_ID)


def test_another_pack_in_its_place_is_noticed_when_scanned() -> None:
    _, data = pack_of([[b"x"]])
    with pytest.raises(DataDamaged):
        scan_pack(data, pack_id=bytes(16))


ID = b"i" * 32
GOOD: tuple[Any, ...] = (24, 0, 0, 4, ID, (4,))


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [GOOD, GOOD],
        [(23, 0, 0, 4, ID, (4,))],
        [(-1, 0, 0, 4, ID, (4,))],
        [(1_000, 0, 0, 4, ID, (4,))],
        [(24, 5, 0, 4, ID, (4,))],
        [(24, 4, 0, 4, ID, (4,))],
        [(24, 4, 0, 4, ID, (4,), ID)],
        [(24, 4, 0, 4, ID, (4,), b"b" * 31)],
        [(24, 4, 0, 4, ID * 2, (2, 2), b"b" * 32)],
        [(24, 1, 0, 4, ID, (4,), b"b" * 32)],
        [(24, 99, 0, 4, ID, (4,))],
        [(24, 0, 2, 4, ID, (4,))],
        [(24, 0, 0, 0, ID, (4,))],
        [(24, 0, 0, 2**31, ID, (4,))],
        [(24, 0, 0, 9_000, ID, (4,))],
        [(24, 0, 0, 4, ID, (0,))],
        [(24, 0, 0, 4, ID, (CHUNK_BYTES_MAX + 1,))],
        [(24, 0, 0, 4, ID * 3, (CHUNK_BYTES_MAX,) * 3)],
        [(24, 0, 0, 4, ID, ())],
        [(24, 0, 0, 4, ID, (2, 2))],
        [(24, 0, 0, 4, ID[:-1], (4,))],
        [(24, 0, 0, 4, ID * (BLOCK_CHUNKS_MAX + 1), (1,) * (BLOCK_CHUNKS_MAX + 1))],
        [(24, 0, 0, 4, ID)],
        ["block"],
    ],
)
def test_impossible_blocks_are_refused(blocks: list[Any]) -> None:
    parse_pack_record((PACK_ID, 200, b"s" * 32, (GOOD,)))
    with pytest.raises(ManifestRefused):
        parse_pack_record((PACK_ID, 200, b"s" * 32, tuple(blocks)))


@pytest.mark.parametrize(
    "record",
    [
        (PACK_ID[:-1], 200, b"s" * 32, (GOOD,)),
        ("0" * 16, 200, b"s" * 32, (GOOD,)),
        (PACK_ID, 79, b"s" * 32, (GOOD,)),
        (PACK_ID, PACK_BYTES_MAX + 1, b"s" * 32, (GOOD,)),
        (PACK_ID, 200, b"s" * 31, (GOOD,)),
        (PACK_ID, 200, b"s" * 32, [GOOD]),
        (PACK_ID, 200, b"s" * 32),
        None,
    ],
)
def test_impossible_packs_are_refused(record: Any) -> None:
    with pytest.raises(ManifestRefused):
        parse_pack_record(record)
