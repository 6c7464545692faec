"""A store that is away while a job's files are moved: waited for, with a word to the control plane, and not for ever."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from agent import wire
from agent.client import ApiError, Client
from agent.hold import Hold
from snapshots.engine.errors import Cancelled

log = logging.getLogger("agent.store")

AWAY_AT_MOST_S = 3_600.0
"""An outage that lasts longer fails what waits for it. The session's end comes first where that is nearer."""
TOLD_AFTER_S = 2.0
"""A hiccup is nobody's business."""
LOOK_EVERY_S = 0.1


class StoreAway:
    """The patience of all transfers of one dispatch together: an outage is one, however many files wait for its end.

    phase: what is told once the store is back. Telling is for people: the lease goes on by the status posts.
    """

    def __init__(self, client: Client, hold: Hold, *, phase: str) -> None:
        self._client = client
        self._hold = hold
        self._phase = phase
        self._lock = threading.Lock()
        self._since_s: float | None = None
        self._told = False

    def goes_on(self, busy_s: float) -> bool:
        """Whether the store is waited for (still)."""
        now_s = time.monotonic()
        with self._lock:
            if self._since_s is None:
                self._since_s = now_s
            away_s = now_s - self._since_s
            tells = not self._told and away_s >= TOLD_AFTER_S
            self._told = self._told or tells
        if tells:
            log.warning("dispatch=%s the store is away; waiting for it", self._hold.claim.dispatch_id)
            self._tell(wire.STORE_AWAY)
        return max(busy_s, away_s) < AWAY_AT_MOST_S

    def answered(self) -> None:
        """The store is there."""
        if self._since_s is None:
            return
        with self._lock:
            tells, self._told, self._since_s = self._told, False, None
        if tells:
            log.info("dispatch=%s the store is there again", self._hold.claim.dispatch_id)
            self._tell(self._phase)

    def _tell(self, phase: str) -> None:
        claim = self._hold.claim
        post = wire.ProgressPost(fence=claim.fence, phase=phase)
        try:
            self._client.post(wire.dispatch_path(claim.dispatch_id, "progress"), wire.to_json(post))
        except ApiError as error:
            log.info("dispatch=%s phase %s not told: %s", claim.dispatch_id, phase, error)


def pause_until(stopped: Callable[[], bool]) -> Callable[[float], None]:
    """A pause that raises Cancelled as soon as it is no use any more."""

    def pause(seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            if stopped():
                raise Cancelled("stopped while the store was away")
            time.sleep(min(LOOK_EVERY_S, left_s))

    return pause
