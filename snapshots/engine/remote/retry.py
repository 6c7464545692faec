"""When to try a transfer again, and how long to wait."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from snapshots.engine.store.base import StoreBusy

T = TypeVar("T")
RETRY_AFTER_MAX_S = 60.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """`attempts` tries in all; between them base, 2 base, 4 base … up to max_s, half of it by chance; Retry-After wins.

    pause: sleeps (an argument, so that tests need not).
    """

    pause: Callable[[float], None]
    attempts: int = 7
    base_s: float = 0.25
    max_s: float = 15.0
    chance: Callable[[], float] = field(default=random.random)

    def run(self, step: Callable[[int], T]) -> T:
        """Call step(attempt) until it returns. What is not StoreBusy goes straight to the caller, as does the last StoreBusy."""
        attempt = 0
        while True:
            try:
                return step(attempt)
            except StoreBusy as busy:
                attempt += 1
                if attempt >= self.attempts:
                    raise
                self.pause(self.wait_s(attempt, busy.retry_after_s))

    def wait_s(self, attempt: int, retry_after_s: float | None) -> float:
        if retry_after_s is not None:
            return min(max(retry_after_s, 0.0), RETRY_AFTER_MAX_S)
        full = min(self.base_s * 2.0 ** (attempt - 1), self.max_s)
        return full * (0.5 + 0.5 * self.chance())
