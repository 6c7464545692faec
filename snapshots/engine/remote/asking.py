"""Presigned requests, asked for in batches without a timer: while one question is on its way, the next wishes gather."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from snapshots.engine.store.base import SignedRequest, StoreRefused

Wish = TypeVar("Wish")
BATCH_MAX = 64


class Asker(Generic[Wish]):
    """`ask` is called with 1 to 64 wishes, by one thread at a time, and answers as many requests in the same order."""

    def __init__(self, ask: Callable[[Sequence[Wish]], Sequence[SignedRequest]]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._waiting: list[tuple[Wish, Future[SignedRequest]]] = []
        self._asking = False

    def get(self, wish: Wish) -> SignedRequest:
        """Blocks until the answer is there. Raises what `ask` raised."""
        answer: Future[SignedRequest] = Future()
        with self._lock:
            self._waiting.append((wish, answer))
            leads, self._asking = not self._asking, True
        if leads:
            self._lead()
        return answer.result()

    def _lead(self) -> None:
        """Ask until nobody waits. One caller leads for the others, so that no thread of its own is needed."""
        while True:
            with self._lock:
                batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
                if not batch:
                    self._asking = False
                    return
            try:
                requests = self._ask([wish for wish, _ in batch])
                if len(requests) != len(batch):
                    raise StoreRefused(f"asked for {len(batch)} signed requests and got {len(requests)}")
            except BaseException as error:
                for _, answer in batch:
                    answer.set_exception(error)
                if not isinstance(
                    error, Exception
                ):  # interrupted: nobody will lead, so nobody may go on waiting
                    with self._lock:
                        rest, self._waiting, self._asking = self._waiting, [], False
                    for _, answer in rest:
                        answer.set_exception(error)
                    raise
            else:
                for (_, answer), request in zip(batch, requests, strict=True):
                    answer.set_result(request)
