"""Packs and blocks: the bytes, and the records that say what is in them (format 4 and 7)."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Container, Iterator, Sequence
from typing import NamedTuple

from snapshots.engine import codecs
from snapshots.engine.cipher import OVERHEAD_BYTES, Cipher
from snapshots.engine.codecs import Codec
from snapshots.engine.errors import DataDamaged
from snapshots.engine.fields import octets, pack, refuse, row, rows, whole
from snapshots.engine.keys import ID_BYTES, PACK_ID_BYTES, OwnerKey
from snapshots.engine.limits import (
    BLOCK_CHUNKS_MAX,
    BLOCK_OVERHEAD_MAX,
    BLOCK_RAW_MAX,
    CHUNK_BYTES_MAX,
    PACK_BYTES_MAX,
)

VERSION = 1
ENCRYPTED = 1
"""The one flag of a block."""
PACK_MAGIC, BLOCK_MAGIC = b"DMPK", b"DMBK"
_PACK_HEADER = struct.Struct("<4sBBH16s")
_BLOCK_HEADER = struct.Struct("<4sBBHII")
_CHUNK_ROW = struct.Struct("<32sI")
PACK_HEADER_BYTES, BLOCK_HEADER_BYTES, CHUNK_ROW_BYTES = (
    _PACK_HEADER.size,
    _BLOCK_HEADER.size,
    _CHUNK_ROW.size,
)


class ChunkRef(NamedTuple):
    """A chunk inside a block. offset: where it begins in the block's raw bytes."""

    chunk_id: bytes
    offset: int
    length: int


class BlockRecord(NamedTuple):
    """Where a block lies and what is in it. ids: the chunk ids one after another; lengths: of the raw chunks.

    base_id: the chunk that a delta changes, else empty.
    """

    offset: int
    codec: int
    flags: int
    payload_length: int
    ids: bytes
    lengths: tuple[int, ...]
    base_id: bytes = b""

    @property
    def is_delta(self) -> bool:
        return self.codec == Codec.DELTA

    @property
    def raw_length(self) -> int:
        return sum(self.lengths)

    @property
    def span(self) -> int:
        """Bytes of the whole block in its pack: header, table, a delta's base, payload."""
        head = BLOCK_HEADER_BYTES + CHUNK_ROW_BYTES * len(self.lengths) + len(self.base_id)
        return head + self.payload_length

    def chunks(self) -> Iterator[ChunkRef]:
        offset = 0
        for number, length in enumerate(self.lengths):
            yield ChunkRef(self.ids[number * ID_BYTES : (number + 1) * ID_BYTES], offset, length)
            offset += length

    def columns(self) -> tuple[object, ...]:
        """As in a manifest: the base is a column of its own only where there is one."""
        return tuple(self) if self.base_id else tuple(self)[:-1]

    def head(self) -> bytes:
        """Header, table and a delta's base, exactly as they stand in the pack."""
        fixed = _BLOCK_HEADER.pack(
            BLOCK_MAGIC, self.codec, self.flags, len(self.lengths), self.raw_length, self.payload_length
        )
        rows = (_CHUNK_ROW.pack(chunk.chunk_id, chunk.length) for chunk in self.chunks())
        return b"".join((fixed, *rows, self.base_id))


class PackRecord(NamedTuple):
    pack_id: bytes
    length: int
    sha256: bytes
    blocks: tuple[BlockRecord, ...]

    @property
    def chunks(self) -> int:
        return sum(len(block.lengths) for block in self.blocks)

    def encode(self) -> bytes:
        return pack((self.pack_id, self.length, self.sha256, tuple(block.columns() for block in self.blocks)))


class Block(NamedTuple):
    """A block that is ready to be put anywhere: its record says offset 0."""

    record: BlockRecord
    head: bytes
    payload: codecs.Raw


def make_block(
    encoded: codecs.Encoded, chunks: Sequence[tuple[bytes, int]], cipher: Cipher | None = None
) -> Block:
    """chunks: (id, raw length) of what the encoded block holds, in order. cipher: encrypt it."""
    ids, lengths = zip(*chunks, strict=True)
    flags = ENCRYPTED if cipher is not None else 0
    length = len(encoded.payload) + (OVERHEAD_BYTES if cipher is not None else 0)
    record = BlockRecord(0, encoded.codec, flags, length, b"".join(ids), tuple(lengths), encoded.base_id)
    head = record.head()
    payload = encoded.payload if cipher is None else cipher.seal(encoded.payload, beside=head)
    return Block(record, head, payload)


class PackBuilder:
    """Collects blocks. Not safe for several threads: its owner holds a lock."""

    def __init__(self, pack_id: bytes) -> None:
        self.pack_id = pack_id
        self.length = PACK_HEADER_BYTES
        self._parts: list[codecs.Raw] = [_PACK_HEADER.pack(PACK_MAGIC, VERSION, 0, 0, pack_id)]
        self._blocks: list[BlockRecord] = []

    def add(self, block: Block) -> None:
        self._parts += (block.head, block.payload)
        self._blocks.append(block.record._replace(offset=self.length))
        self.length += block.record.span

    def seal(self) -> tuple[PackRecord, bytes]:
        data = b"".join(self._parts)
        return PackRecord(self.pack_id, len(data), hashlib.sha256(data).digest(), tuple(self._blocks)), data


def parse_pack_record(value: object) -> PackRecord:
    """A decoded MessagePack value, every field checked: blocks inside the pack, one after another. Raises ManifestRefused."""
    pack_id, length, sha256, blocks = row(value, "a pack record", 4)
    octets(pack_id, "a pack id", low=PACK_ID_BYTES, high=PACK_ID_BYTES)
    name = f"pack {pack_id.hex()}"
    whole(length, f"length of {name}", low=PACK_HEADER_BYTES, high=PACK_BYTES_MAX)
    octets(sha256, f"SHA-256 of {name}", low=32, high=32)
    records, end = [], PACK_HEADER_BYTES
    for value in rows(blocks, f"blocks of {name}", high=PACK_BYTES_MAX // BLOCK_HEADER_BYTES):
        record = _parse_block_record(value, name)
        if record.offset < end:
            refuse(f"a block of {name} at {record.offset} overlaps the one before it")
        end = record.offset + record.span
        records.append(record)
    if end > length or not records:
        refuse(f"{name} has {length} bytes and its blocks need {end}")
    return PackRecord(pack_id, length, sha256, tuple(records))


def _parse_block_record(value: object, name: str) -> BlockRecord:
    is_delta = type(value) is tuple and len(value) > 1 and value[1] == Codec.DELTA
    columns = row(value, f"a block of {name}", 7 if is_delta else 6)
    offset, codec, flags, payload_length, ids, lengths = columns[:6]
    base_id = octets(columns[6], f"a base in {name}", low=ID_BYTES, high=ID_BYTES) if is_delta else b""
    whole(offset, f"a block's offset in {name}", low=PACK_HEADER_BYTES, high=PACK_BYTES_MAX)
    if whole(codec, f"a codec in {name}", high=255) not in codecs.KNOWN or flags not in (0, ENCRYPTED):
        refuse(
            f"a block of {name} has codec {codec}, flags {flags}: a newer version wrote it; update this program"
        )
    if not len(rows(lengths, f"chunks of a block of {name}", high=BLOCK_CHUNKS_MAX)) >= 1:
        refuse(f"a block of {name} has no chunks")
    octets(ids, f"chunk ids of a block of {name}", low=ID_BYTES * len(lengths), high=ID_BYTES * len(lengths))
    if is_delta and (len(lengths) != 1 or base_id == ids):
        refuse(f"a delta of {name} has several chunks, or is its own base")
    raw_length = sum(whole(length, f"a chunk in {name}", low=1, high=CHUNK_BYTES_MAX) for length in lengths)
    if raw_length > BLOCK_RAW_MAX:
        refuse(f"a block of {name} has {raw_length} raw bytes, more than {BLOCK_RAW_MAX}")
    whole(payload_length, f"a payload in {name}", low=1, high=raw_length + BLOCK_OVERHEAD_MAX)
    return BlockRecord(offset, codec, flags, payload_length, ids, lengths, base_id)


FindBase = Callable[[bytes], codecs.Raw]


def open_block(
    record: BlockRecord,
    span: memoryview,
    owner_key: OwnerKey,
    *,
    wanted: Container[bytes] | None = None,
    base: FindBase | None = None,
) -> Iterator[tuple[ChunkRef, memoryview]]:
    """Decode the bytes that a store gave for a block, and yield its chunks, each checked against its id.

    span: record.span bytes. wanted: ids to check and yield (None: all). base: gives a delta's base by its id, and its bytes
    are checked here too. Raises DataDamaged.
    """
    head = record.head()
    if len(span) != record.span or span[: len(head)] != head:
        raise DataDamaged("the store's bytes are not this block: another header, or too few bytes")
    payload = span[len(head) :]
    if record.flags & ENCRYPTED:
        payload = memoryview(owner_key.cipher.open(payload, beside=head))
    below = _base_bytes(record, owner_key, base) if record.is_delta else None
    raw = memoryview(codecs.decode(record.codec, payload, record.raw_length, base=below))
    for chunk in record.chunks():
        if wanted is not None and chunk.chunk_id not in wanted:
            continue
        data = raw[chunk.offset : chunk.offset + chunk.length]
        if owner_key.chunk_id(data) != chunk.chunk_id:
            raise DataDamaged(
                f"chunk {chunk.chunk_id.hex()[:16]} does not have the bytes that its id promises"
            )
        yield chunk, data


def _base_bytes(record: BlockRecord, owner_key: OwnerKey, base: FindBase | None) -> codecs.Raw:
    if base is None:
        raise DataDamaged("a delta cannot be decoded without its base")
    found = base(record.base_id)
    if owner_key.chunk_id(found) != record.base_id:
        raise DataDamaged(f"base {record.base_id.hex()[:16]} does not have the bytes that its id promises")
    return found


def scan_pack(data: bytes, *, pack_id: bytes) -> PackRecord:
    """The record of a pack from its own bytes, without a manifest: how an index is rebuilt. Raises DataDamaged."""
    if len(data) < PACK_HEADER_BYTES:
        raise DataDamaged(f"pack {pack_id.hex()} is shorter than a header")
    if _PACK_HEADER.unpack_from(data) != (PACK_MAGIC, VERSION, 0, 0, pack_id):
        raise DataDamaged(f"pack {pack_id.hex()} does not begin with its header, or a newer version wrote it")
    blocks, at = [], PACK_HEADER_BYTES
    while at < len(data):
        try:
            magic, codec, flags, count, raw_length, payload_length = _BLOCK_HEADER.unpack_from(data, at)
            table = data[at + BLOCK_HEADER_BYTES : at + BLOCK_HEADER_BYTES + CHUNK_ROW_BYTES * count]
            ids, lengths = zip(*_CHUNK_ROW.iter_unpack(table), strict=True)
        except (struct.error, ValueError):
            raise DataDamaged(f"pack {pack_id.hex()} breaks off in a block header at {at}") from None
        record = BlockRecord(at, codec, flags, payload_length, b"".join(ids), tuple(lengths))
        if record.is_delta:
            front = at + BLOCK_HEADER_BYTES + len(table)
            record = record._replace(base_id=data[front : front + ID_BYTES])
        at += record.span
        if magic != BLOCK_MAGIC or record.raw_length != raw_length or at > len(data):
            raise DataDamaged(f"pack {pack_id.hex()} has no block at {record.offset}, or one that breaks off")
        blocks.append(record)
    return PackRecord(pack_id, len(data), hashlib.sha256(data).digest(), tuple(blocks))
