"""Sending objects: many at a time, a bounded number of bytes in flight."""

from __future__ import annotations

import threading
from types import TracebackType

from snapshots.engine.limits import Effort
from snapshots.engine.parallel import ByteBudget, TaskPool
from snapshots.engine.progress import Control
from snapshots.engine.remote.base import ObjectPlan, Remote


class Uploader:
    """put() returns when there is room for the bytes, not when they have arrived; join() when all have."""

    def __init__(self, remote: Remote, control: Control, effort: Effort) -> None:
        self._remote = remote
        self._control = control
        self._budget = ByteBudget(effort.memory_bytes, control)
        self._pool = TaskPool(effort.streams, control)
        self._lock = threading.Lock()
        self._sent: list[ObjectPlan] = []

    def put(self, plan: ObjectPlan, data: bytes) -> None:
        self._budget.acquire(plan.length)
        self._pool.submit(self._put, plan, data)

    def join(self) -> None:
        """Wait until everything has been acknowledged."""
        self._pool.join()

    def put_last(self, plan: ObjectPlan, data: bytes) -> tuple[ObjectPlan, ...]:
        """Send what makes all the rest count, after all the rest. Returns everything that was sent.

        In the caller's thread, and with no look at cancellation afterwards: whoever is told "stopped" must be right.
        """
        self.join()
        self._remote.put(plan, data)
        self._control.done(stored=plan.length)
        return (*self._sent, plan)

    def _put(self, plan: ObjectPlan, data: bytes) -> None:
        try:
            self._remote.put(plan, data)
        finally:
            self._budget.release(plan.length)
        with self._lock:
            self._sent.append(plan)
        self._control.done(stored=plan.length)

    def __enter__(self) -> Uploader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.__exit__(kind, error, trace)
