"""What was done without a log line of its own, counted and told once a minute."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

log = logging.getLogger("gateway.tally")

PERIOD_S = 60.0


@dataclass
class Tally:
    """Counts since the last summary. refused: by status and code."""

    polls: int = 0
    delivered: int = 0
    returned: int = 0
    posts: int = 0
    passed: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def summary(self) -> str:
        """One line of all counts; counting starts again."""
        refused = " ".join(f"{code}={count}" for code, count in sorted(self.refused.items())) or "none"
        line = (
            f"polls={self.polls} delivered={self.delivered} returned={self.returned} posts={self.posts} "
            f"passed={self.passed} refused: {refused}"
        )
        self.polls = self.delivered = self.returned = self.posts = self.passed = 0
        self.refused.clear()
        return line


async def tell(tally: Tally, *, parked: Callable[[], int], period_s: float = PERIOD_S) -> None:
    """Log a summary every `period_s` until cancelled."""
    while True:
        await asyncio.sleep(period_s)
        log.info("parked=%d %s", parked(), tally.summary())
