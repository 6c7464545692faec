"""Chunks to blocks to packs on their way to the store, each chunk once."""

from __future__ import annotations

import secrets
import threading

from snapshots.engine import codecs
from snapshots.engine.index import ChunkIndex
from snapshots.engine.keys import PACK_ID_BYTES, pack_key
from snapshots.engine.pack import PackBuilder, PackRecord
from snapshots.engine.remote.base import ObjectPlan
from snapshots.engine.upload import Uploader


class Packer:
    """Safe to use from many threads: encoding and hashing happen in the caller's, only the placing is locked."""

    def __init__(
        self, uploader: Uploader, *, owner_id: str, known: ChunkIndex | None, pack_bytes: int
    ) -> None:
        self._uploader = uploader
        self._owner_id = owner_id
        self._known = known
        self._pack_bytes = pack_bytes
        self._lock = threading.Lock()
        self._claimed: set[bytes] = set()
        self._builder = self._new_builder()
        self._empty = True
        self._records: list[PackRecord] = []

    def claim(self, chunk_id: bytes) -> bool:
        """True for the first to ask: the caller must then add the chunk. False: it is, or will be, in a pack."""
        if self._known is not None and chunk_id in self._known:
            return False
        with self._lock:
            if chunk_id in self._claimed:
                return False
            self._claimed.add(chunk_id)
            return True

    def add(self, raw: codecs.Raw, chunks: list[tuple[bytes, int]], *, level: int) -> None:
        """One block of claimed chunks: (id, length) of each, `raw` all of them one after another."""
        encoded = codecs.encode(raw, level=level)
        with self._lock:
            self._builder.add(encoded, chunks)
            self._empty = False
            if self._builder.length < self._pack_bytes:
                return
            full, self._builder, self._empty = self._builder, self._new_builder(), True
        self._ship(full)

    def finish(self) -> list[PackRecord]:
        """Send the last pack, and return the records of all. Nothing may be added any more."""
        if not self._empty:
            self._empty = True
            self._ship(self._builder)
        return self._records

    def _ship(self, builder: PackBuilder) -> None:
        record, data = builder.seal()
        plan = ObjectPlan(pack_key(self._owner_id, record.pack_id), record.length, record.sha256.hex())
        self._uploader.put(plan, data)
        with self._lock:
            self._records.append(record)

    @staticmethod
    def _new_builder() -> PackBuilder:
        return PackBuilder(secrets.token_bytes(PACK_ID_BYTES))
