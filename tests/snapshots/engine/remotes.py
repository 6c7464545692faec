"""Remotes that watch, break or delay what goes through them. The store behind them is real."""

from __future__ import annotations

import threading
from collections.abc import Callable

from snapshots.engine.remote import ObjectPlan, Remote, StoreRemote
from snapshots.engine.store.base import Store


class Watched(Remote):
    """Notes what is asked, and lets `on_put` and `on_get` step in: they may raise, wait, or return other bytes."""

    def __init__(
        self,
        store: Store,
        *,
        on_put: Callable[[ObjectPlan], None] | None = None,
        on_get: Callable[[str, int, bytes], bytes] | None = None,
    ) -> None:
        self._behind = StoreRemote(store, attempts=1)
        self._on_put = on_put
        self._on_get = on_get
        self._lock = threading.Lock()
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.got: list[tuple[str, int, int]] = []
        self.bytes_in_flight = 0
        self.most_in_flight = 0
        self.most_at_once = 0

    def put(self, plan: ObjectPlan, data: bytes) -> None:
        with self._lock:
            self.begun.append(plan.key)
            self.bytes_in_flight += plan.length
            self.most_in_flight = max(self.most_in_flight, self.bytes_in_flight)
            self.most_at_once = max(self.most_at_once, len(self.begun) - len(self.ended))
        try:
            if self._on_put is not None:
                self._on_put(plan)
            self._behind.put(plan, data)
        finally:
            with self._lock:
                self.bytes_in_flight -= plan.length
        with self._lock:
            self.ended.append(plan.key)

    def get(self, key: str, *, offset: int, length: int) -> bytes:
        data = self._behind.get(key, offset=offset, length=length)
        with self._lock:
            self.got.append((key, offset, length))
        return data if self._on_get is None else self._on_get(key, offset, data)
