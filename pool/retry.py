"""When a job whose command failed is tried again, and how long it waits before. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RETRIES_AT_MOST = 100
BACKOFF_AT_MOST_S = 7 * 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Retry:
    """exit_codes: those that are worth another try; None: any. The waits are backoff_s, times backoff_factor each time,
    and never more than max_backoff_s. An attempt that ran out of time, or was lost with its worker, is none of its business.
    """

    exit_codes: tuple[int, ...] | None = None
    max_retries: int = 3
    backoff_s: float = 10.0
    backoff_factor: float = 2.0
    max_backoff_s: float = 600.0

    @classmethod
    def stored(cls, value: Mapping[str, Any]) -> Retry:
        """What `as_json` wrote."""
        codes = value["exit_codes"]
        return cls(**{**value, "exit_codes": None if codes == "any" else tuple(codes)})

    def as_json(self) -> dict[str, Any]:
        return {
            "exit_codes": "any" if self.exit_codes is None else list(self.exit_codes),
            "max_retries": self.max_retries,
            "backoff_s": self.backoff_s,
            "backoff_factor": self.backoff_factor,
            "max_backoff_s": self.max_backoff_s,
        }

    def wants(self, exit_code: int, *, retries: int) -> bool:
        """Whether a command that ended so is tried again, after so many retries."""
        chosen = exit_code != 0 and (self.exit_codes is None or exit_code in self.exit_codes)
        return chosen and retries < self.max_retries

    def wait_s(self, *, retries: int) -> float:
        """How long it waits before its next try, after so many retries."""
        wait_s = self.backoff_s
        for _ in range(retries):
            if wait_s >= self.max_backoff_s:
                break
            wait_s *= self.backoff_factor
        return min(wait_s, self.max_backoff_s)
