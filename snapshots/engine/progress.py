"""How far a take, restore or verify is, told often enough for a person and seldom enough to cost nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from snapshots.engine.errors import Cancelled

REPORT_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """bytes are logical (uncompressed); stored_bytes went over the wire. Never beyond the totals; totals can grow early on."""

    phase: str
    bytes_done: int = 0
    bytes_total: int = 0
    files_done: int = 0
    files_total: int = 0
    stored_bytes: int = 0


OnProgress = Callable[[Progress], None]
IsCancelled = Callable[[], bool]


class Control:
    """Shared by the threads of one operation: counts, tells, and says when to stop. The first failure stops all."""

    def __init__(self, progress: OnProgress | None, cancelled: IsCancelled | None) -> None:
        self._tell = progress
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._next_at = 0.0
        self._phase = ""
        self._bytes = [0, 0]
        self._files = [0, 0]
        self._stored = 0

    def check(self) -> None:
        """Raise Cancelled, or what another thread failed with."""
        if self._cancelled is not None and self._cancelled():
            self.stop(Cancelled("stopped because the caller asked for it"))
        if self._error is not None:
            raise self._error

    def stop(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
        self._stopped.set()

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the operation."""
        self._stopped.wait(max(0.0, seconds))
        self.check()

    def phase(self, name: str, *, bytes_total: int = 0, files_total: int = 0) -> None:
        with self._lock:
            self._phase = name
            self._bytes = [0, bytes_total]
            self._files = [0, files_total]
        self._report(force=True)

    def done(self, *, bytes_: int = 0, files: int = 0, stored: int = 0) -> None:
        with self._lock:
            self._bytes[0] += bytes_
            self._files[0] += files
            self._stored += stored
        self._report()

    def grow(self, *, bytes_: int = 0, files: int = 0) -> None:
        """More to do than was thought: a file is read again, or appeared late."""
        with self._lock:
            self._bytes[1] += bytes_
            self._files[1] += files

    @property
    def stored_bytes(self) -> int:
        return self._stored

    def _report(self, *, force: bool = False) -> None:
        if self._tell is None:
            return
        with self._lock:
            now = time.monotonic()
            if not force and now < self._next_at:
                return
            self._next_at = now + REPORT_EVERY_S
            report = Progress(
                phase=self._phase,
                bytes_done=min(self._bytes[0], self._bytes[1]),
                bytes_total=self._bytes[1],
                files_done=min(self._files[0], self._files[1]),
                files_total=self._files[1],
                stored_bytes=self._stored,
            )
            self._tell(report)

    def finish(self) -> None:
        self._report(force=True)
