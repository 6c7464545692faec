"""How often one worker may post: a token bucket each, so that no worker can fill the stream for all."""

from __future__ import annotations

BURST_S = 4.0
"""How many seconds' worth of posts a worker may send at once."""

FORGET_ABOVE = 1_000


class Pace:
    """At most `per_s` a second for each key, after a burst. Keeps one number per key that is not at rest."""

    def __init__(self, per_s: float) -> None:
        self._gap_s = 1 / per_s
        self._slack_s = max(BURST_S, self._gap_s)
        self._full_at: dict[str, float] = {}
        self._forget_above = FORGET_ABOVE

    def wait_s(self, key: str, *, now: float) -> float:
        """0 and the post counts, or how long `key` has to wait. now: any clock that only goes forward."""
        full_at = max(self._full_at.get(key, now), now)
        late_s = full_at + self._gap_s - now - self._slack_s
        # Rounding must not turn the last post of a full burst away.
        if late_s > 1e-9:
            return late_s
        self._full_at[key] = full_at + self._gap_s
        if len(self._full_at) > self._forget_above:
            self._full_at = {kept: at for kept, at in self._full_at.items() if at > now}
            self._forget_above = max(FORGET_ABOVE, 2 * len(self._full_at))
        return 0.0
