"""Threads: work that may beget work, results ahead of their use, and a bound on bytes in flight."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from snapshots.engine.progress import Control

A = TypeVar("A")
B = TypeVar("B")
LOOK_EVERY_S = 0.2


class TaskPool:
    """Runs tasks in threads. The first that fails stops the rest; join() raises what it raised.

    A task may submit further tasks; nobody waits for a task inside a task.
    """

    def __init__(self, threads: int, control: Control) -> None:
        self._control = control
        self._executor = ThreadPoolExecutor(threads)
        self._idle = threading.Condition()
        self._pending = 0

    def submit(self, task: Callable[..., None], *args: Any) -> None:
        with self._idle:
            self._pending += 1
        self._executor.submit(self._run, task, args)

    def _run(self, task: Callable[..., None], args: tuple[Any, ...]) -> None:
        try:
            self._control.check()
            task(*args)
        except BaseException as error:
            self._control.stop(error)
            if not isinstance(error, Exception):
                raise
        finally:
            with self._idle:
                self._pending -= 1
                if not self._pending:
                    self._idle.notify_all()

    def join(self) -> None:
        """Wait until everything that was submitted has ended."""
        with self._idle:
            while not self._idle.wait_for(lambda: not self._pending, timeout=LOOK_EVERY_S):
                self._look()
        self._control.check()

    def _look(self) -> None:
        """Notice a cancellation even while all tasks are in long requests. They end by themselves and do nothing more."""
        self._control.check()

    def __enter__(self) -> TaskPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._control.stop(error)
        self._executor.shutdown(wait=True, cancel_futures=error is not None)


class ByteBudget:
    """At most `total` bytes in flight. One that is larger than the whole budget goes alone."""

    def __init__(self, total: int, control: Control) -> None:
        self._total = total
        self._control = control
        self._used = 0
        self._changed = threading.Condition()

    def acquire(self, size: int) -> None:
        with self._changed:
            while not self._changed.wait_for(
                lambda: self._used == 0 or self._used + size <= self._total, LOOK_EVERY_S
            ):
                self._control.check()
            self._used += size

    def release(self, size: int) -> None:
        with self._changed:
            self._used -= size
            self._changed.notify_all()


def ahead(work: Callable[[A], B], items: Iterable[A], *, threads: int) -> Iterator[B]:
    """work(item) for every item, in order, at most `threads` of them at a time and as many finished ones waiting."""
    running: deque[Future[B]] = deque()
    with ThreadPoolExecutor(threads) as executor:
        try:
            for item in items:
                running.append(executor.submit(work, item))
                if len(running) >= threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
