"""Straight to a store: for command-line tools, tests, and whoever holds the bucket's keys."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from snapshots.engine.remote.base import ObjectPlan, Remote
from snapshots.engine.remote.retry import Backoff
from snapshots.engine.store.base import ObjectExists, ObjectFacts, Store


class StoreRemote(Remote):
    """attempts=1 never waits: for callers that are themselves asked again."""

    def __init__(
        self, store: Store, *, attempts: int = 7, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._store = store
        self._backoff = Backoff(pause, attempts=attempts)

    def put(self, plan: ObjectPlan, data: bytes) -> None:
        try:
            self._backoff.run(lambda _: self._store.write(plan.key, data, sha256=plan.sha256))
        except ObjectExists:
            # A retry after a lost answer meets its own object; anything else under this key is an error.
            if not self._holds(plan):
                raise

    def get(self, key: str, *, offset: int, length: int) -> bytes:
        return self._backoff.run(lambda _: self._store.read(key, offset=offset, length=length))

    def _holds(self, plan: ObjectPlan) -> bool:
        facts = self._backoff.run(lambda _: self._store.head(plan.key))
        if facts.sha256 is None and facts.length == plan.length:
            there = self._backoff.run(lambda _: self._store.read(plan.key))
            facts = ObjectFacts(len(there), hashlib.sha256(there).hexdigest())
        return facts == ObjectFacts(plan.length, plan.sha256)
