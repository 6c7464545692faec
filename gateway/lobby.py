"""Where parked polls wait inside this process: no thread, no connection of their own, one future each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum


class Wake(Enum):
    """Why a parked poll was woken."""

    LOOK = "something may have changed: look at the gate and the queue again"
    TIME = "the poll's time is over"
    NEWER = "a newer poll of the same worker has taken the place"
    CLOSING = "this process is going away"


_FOR_GOOD = (Wake.NEWER, Wake.CLOSING)


class Waiter:
    """One parked poll. A wake that comes while the poll is busy elsewhere is kept for its next wait()."""

    __slots__ = ("_future", "_lobby", "_wake", "worker_id")

    def __init__(self, lobby: Lobby, worker_id: str) -> None:
        self._lobby = lobby
        self.worker_id = worker_id
        self._wake: Wake | None = None
        self._future: asyncio.Future[None] | None = None

    @property
    def ended(self) -> bool:
        """True once no message may be delivered through this poll any more."""
        return self._wake in _FOR_GOOD

    def wake(self, why: Wake) -> None:
        """The first reason counts until wait() has told it; only an end for good comes before it."""
        if self.ended or (self._wake is not None and why not in _FOR_GOOD):
            return
        self._wake = why
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self, *, until: float) -> Wake:
        """Sleep until woken, or until the loop's clock says `until`."""
        if self._wake is None:
            loop = asyncio.get_running_loop()
            self._future = loop.create_future()
            timer = loop.call_at(until, self.wake, Wake.TIME)
            self._lobby.parked += 1
            try:
                await self._future
            finally:
                self._lobby.parked -= 1
                timer.cancel()
                self._future = None
        why = self._wake or Wake.TIME
        if not self.ended:
            self._wake = None
        return why


class Lobby:
    """All polls, by worker. A worker has one seat; who enters is woken already before being seated, so that
    nothing which happens between its checks is missed.

    parked: how many are asleep at this moment. len(): how many are inside.
    """

    def __init__(self) -> None:
        self.parked = 0
        self._waiters: dict[str, list[Waiter]] = {}
        self._closed = False

    def __len__(self) -> int:
        return sum(map(len, self._waiters.values()))

    @contextmanager
    def enter(self, worker_id: str) -> Iterator[Waiter]:
        waiter = Waiter(self, worker_id)
        if self._closed:
            waiter.wake(Wake.CLOSING)
        here = self._waiters.setdefault(worker_id, [])
        here.append(waiter)
        try:
            yield waiter
        finally:
            here.remove(waiter)
            if not here:
                del self._waiters[worker_id]

    def seat(self, waiter: Waiter) -> None:
        """Give `waiter` the worker's seat: every poll that entered before it ends."""
        here = self._waiters[waiter.worker_id]
        for older in here[: here.index(waiter)]:
            older.wake(Wake.NEWER)

    def look(self, worker_id: str) -> None:
        for waiter in self._waiters.get(worker_id, ()):
            waiter.wake(Wake.LOOK)

    def look_all(self) -> None:
        self._wake_all(Wake.LOOK)

    def close(self) -> None:
        """End every parked poll, and every one that comes from now on."""
        self._closed = True
        self._wake_all(Wake.CLOSING)

    def _wake_all(self, why: Wake) -> None:
        for here in self._waiters.values():
            for waiter in here:
                waiter.wake(why)
