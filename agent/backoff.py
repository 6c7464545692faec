"""How long to wait before trying again."""

from __future__ import annotations

import random

FIRST_S = 0.5
RETRY_AFTER_LIMIT_S = 300.0


class Backoff:
    """Doubling waits up to a cap, with jitter so that a fleet that lost its server does not return in step.

    A server's Retry-After is honoured (never sooner, at most 5 minutes), and spread upwards by a fifth.
    """

    def __init__(self, *, cap_s: float) -> None:
        self._cap_s = cap_s
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    def next_s(self, *, retry_after_s: float | None = None) -> float:
        wait_s = min(self._cap_s, FIRST_S * 2.0 ** min(self._failures, 16)) * random.uniform(0.5, 1.0)
        self._failures += 1
        if retry_after_s is None:
            return wait_s
        return max(wait_s, min(retry_after_s, RETRY_AFTER_LIMIT_S) * random.uniform(1.0, 1.2))
