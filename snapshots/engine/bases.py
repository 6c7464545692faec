"""The chunks that deltas build on, fetched when they are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from snapshots.engine.errors import DataDamaged
from snapshots.engine.index import ChunkIndex
from snapshots.engine.keys import OwnerKey, pack_key
from snapshots.engine.pack import open_block

KEPT = 16

Get = Callable[[str, int, int], bytes]
"""(key, offset, length) → bytes. Raises what the caller's store raises."""


class Bases:
    """Gives a base's bytes by its id. The last few are kept: windows of one file often share them. Safe for many threads."""

    def __init__(self, index: ChunkIndex, owner_key: OwnerKey, owner_id: str, get: Get) -> None:
        self._index = index
        self._key = owner_key
        self._owner_id = owner_id
        self._get = get
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()

    def __call__(self, base_id: bytes) -> bytes:
        """Raises DataDamaged where the store has other bytes. The index was checked: a base is there, and no delta."""
        with self._lock:
            known = self._kept.get(base_id)
        if known is not None:
            return known
        place = self._index.place(base_id)
        record, pack = self._index.block(place), self._index.packs[place.pack]
        span = memoryview(self._get(pack_key(self._owner_id, pack.pack_id), record.offset, record.span))
        for _, data in open_block(record, span, self._key, wanted=frozenset({base_id})):
            found = bytes(data)
            with self._lock:
                self._kept[base_id] = found
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            return found
        raise DataDamaged(f"block at {record.offset} does not hold base {base_id.hex()[:16]}")
