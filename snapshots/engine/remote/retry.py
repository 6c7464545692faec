"""When to try a transfer again, and how long to wait."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from snapshots.engine.store.base import StoreBusy

T = TypeVar("T")
RETRY_AFTER_MAX_S = 60.0


class Patience(Protocol):
    """Decides how long a store that is away is waited for, in place of a number of tries. Asked by many threads."""

    def goes_on(self, busy_s: float) -> bool:
        """The store is busy, and for this transfer has been for busy_s: is it tried again?"""

    def answered(self) -> None:
        """The store has done what was asked."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """`attempts` tries in all; between them base, 2 base, 4 base … up to max_s, half of it by chance; Retry-After wins.

    pause: sleeps (an argument, so that tests need not). patience: it decides, not `attempts`.
    """

    pause: Callable[[float], None]
    attempts: int = 7
    base_s: float = 0.25
    max_s: float = 15.0
    chance: Callable[[], float] = field(default=random.random)
    patience: Patience | None = None
    clock: Callable[[], float] = time.monotonic

    def run(self, step: Callable[[int], T]) -> T:
        """Call step(attempt) until it returns. What is not StoreBusy goes straight to the caller, as does the last StoreBusy."""
        attempt = 0
        busy_since_s: float | None = None
        while True:
            try:
                result = step(attempt)
            except StoreBusy as busy:
                attempt += 1
                if busy_since_s is None:
                    busy_since_s = self.clock()
                if not self._goes_on(attempt, self.clock() - busy_since_s):
                    raise
                self.pause(self.wait_s(attempt, busy.retry_after_s))
            else:
                if self.patience is not None:
                    self.patience.answered()
                return result

    def _goes_on(self, attempt: int, busy_s: float) -> bool:
        return attempt < self.attempts if self.patience is None else self.patience.goes_on(busy_s)

    def wait_s(self, attempt: int, retry_after_s: float | None) -> float:
        if retry_after_s is not None:
            # Whoever waits for hours does not do it in a tight loop, whatever the answer says.
            least_s = self.base_s if attempt >= self.attempts else 0.0
            return min(max(retry_after_s, least_s), RETRY_AFTER_MAX_S)
        full = min(self.base_s * 2.0 ** min(attempt - 1, 30), self.max_s)
        return full * (0.5 + 0.5 * self.chance())
