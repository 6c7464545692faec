"""Chunks to blocks to packs on their way to the store, each chunk once.

Small files, large files and deltas go to packs of their own: a restore can then put small files first and deltas last, and fetches
each in long runs.
"""

from __future__ import annotations

import secrets
import threading
from enum import Enum
from functools import cached_property

from snapshots.engine.cipher import Cipher
from snapshots.engine.codecs import Base, Encoded, Raw, encode, encode_delta, zstd
from snapshots.engine.index import ChunkIndex
from snapshots.engine.keys import PACK_ID_BYTES, pack_key
from snapshots.engine.manifest import Manifest
from snapshots.engine.pack import PackBuilder, PackRecord, make_block
from snapshots.engine.remote.base import ObjectPlan
from snapshots.engine.upload import Uploader


class Sort(Enum):
    SMALL = "solid blocks of small files"
    LARGE = "chunks of large files"
    DELTA = "deltas"


class Packer:
    """Safe to use from many threads: encoding and hashing happen in the caller's, only the placing is locked."""

    def __init__(
        self,
        uploader: Uploader,
        *,
        owner_id: str,
        parent: Manifest | None,
        pack_bytes: int,
        cipher: Cipher | None,
    ) -> None:
        self._uploader = uploader
        self._owner_id = owner_id
        self._parent = parent
        self._pack_bytes = pack_bytes
        self._cipher = cipher
        self._lock = threading.Lock()
        self._claimed: set[bytes] = set()
        self._open: dict[Sort, PackBuilder] = {}
        self._records: list[PackRecord] = []

    @cached_property
    def known(self) -> ChunkIndex | None:
        """What the parent's packs hold. Fetched when it is first asked for: where nothing changed, nobody does."""
        return None if self._parent is None else self._parent.index

    def claim(self, chunk_id: bytes) -> bool:
        """True for the first to ask: the caller must then add the chunk. False: it is, or will be, in a pack."""
        if self.known is not None and chunk_id in self.known:
            return False
        with self._lock:
            if chunk_id in self._claimed:
                return False
            self._claimed.add(chunk_id)
            return True

    def add_small(self, raw: Raw, chunks: list[tuple[bytes, int]]) -> None:
        """A solid block of claimed chunks: (id, length) of each, `raw` all of them one after another."""
        self._add(Sort.SMALL, encode(raw, level=zstd.DENSE), chunks)

    def add_large(self, raw: Raw, chunk_id: bytes, base: Base | None) -> None:
        """One claimed chunk of a large file. base: one that it may be a delta of."""
        encoded = encode(raw, level=zstd.FAST) if base is None else encode_delta(raw, base, level=zstd.FAST)
        sort = Sort.DELTA if encoded.base_id else Sort.LARGE
        self._add(sort, encoded, [(chunk_id, len(raw))])

    def finish(self) -> list[PackRecord]:
        """Send the last packs, and return the records of all. Nothing may be added any more."""
        while self._open:
            self._ship(self._open.popitem()[1])
        return self._records

    def _add(self, sort: Sort, encoded: Encoded, chunks: list[tuple[bytes, int]]) -> None:
        block = make_block(encoded, chunks, self._cipher)
        with self._lock:
            builder = self._open.get(sort)
            if builder is None:
                builder = self._open[sort] = PackBuilder(secrets.token_bytes(PACK_ID_BYTES))
            builder.add(block)
            if builder.length < self._pack_bytes:
                return
            del self._open[sort]
        self._ship(builder)

    def _ship(self, builder: PackBuilder) -> None:
        record, data = builder.seal()
        plan = ObjectPlan(pack_key(self._owner_id, record.pack_id), record.length, record.sha256.hex())
        self._uploader.put(plan, data)
        with self._lock:
            self._records.append(record)
