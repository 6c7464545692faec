"""A dispatch that this worker holds, and what can cut it short."""

from __future__ import annotations

import threading
import time
from enum import Enum

from agent.session import Ending
from agent.wire import Claimed


class Halt(Enum):
    """Why work stops before its own end. Listed from the strongest to the weakest."""

    STAND_DOWN = "another attempt has taken over: stop, report nothing"
    CANCELLED = "somebody cancelled it"
    INTERRUPTED = "this worker ends"


class Hold:
    """Set from any thread, read by the one thread that does the work. `wake` is set together with any halt."""

    def __init__(self, claim: Claimed) -> None:
        self.claim = claim
        self.wake = threading.Event()
        self._superseded = False
        self._cancelled = False
        self._ending: Ending | None = None
        self._ending_since_s = 0.0
        self._over_since_s = 0.0

    @property
    def halt(self) -> Halt | None:
        if self._superseded:
            return Halt.STAND_DOWN
        if self._cancelled:
            return Halt.CANCELLED
        return Halt.INTERRUPTED if self._ending is not None else None

    @property
    def ending(self) -> Ending | None:
        return self._ending

    def supersede(self) -> None:
        self._superseded = True
        self.wake.set()

    def cancel(self) -> None:
        self._cancelled = True
        self.wake.set()

    def end(self, ending: Ending) -> None:
        self._ending_since_s = time.monotonic()
        self._ending = ending
        if ending.silent:
            self._superseded = True
        self.wake.set()

    def grace_left_s(self, *, own_grace_s: float, since_s: float) -> float:
        """How much longer the work may take to end by itself; shrinks when the agent's own end comes closer."""
        if self._superseded:
            return 0.0
        left_s = since_s + own_grace_s - time.monotonic()
        if self._ending is not None:
            left_s = min(left_s, self._ending_since_s + self._ending.grace_s - time.monotonic())
        return left_s

    def checkpoint_left_s(self) -> float:
        """How much longer a last checkpoint may take; 0 and less: none is to be taken (any more)."""
        if self._ending is None:
            return 0.0
        return self._ending_since_s + self._ending.checkpoint_by_s - time.monotonic()

    def work_is_over(self) -> None:
        """From now on there is only the report."""
        self._over_since_s = time.monotonic()

    def may_report(self) -> bool:
        """False once nobody wants the report, or the time for it is over (it stays in the journal then)."""
        if self._superseded:
            return False
        if self._ending is None:
            return True
        since_s = max(self._over_since_s, self._ending_since_s)
        return time.monotonic() < since_s + self._ending.report_s
