"""How often vast.ai may be asked, and what it said lately: shared by every process of the installation, in Redis.

vast.ai counts for each endpoint and key; more than one process calling without asking here would be answered 429. What
is kept can be lost at any time: then a call too many is made, and the provider's own 429 does the rest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import redis

from core import broker
from hibernation.providers.base import ProviderBusy

log = logging.getLogger(__name__)

LIMITS: Mapping[str, tuple[int, float]] = {
    "search": (10, 60.0),
    "create": (1, 4.5),
    "destroy": (1, 3.0),
    "read": (1, 2.0),
    "list": (1, 1.0),
    "change": (1, 1.0),
}
"""Endpoint -> so many calls in so many seconds. An endpoint that is not here is not counted."""

HOLD_S: Mapping[str, float] = {
    "search": 10.0,
    "create": 12.0,
    "destroy": 3.0,
    "read": 2.0,
    "list": 2.0,
    "change": 2.0,
}
"""After a 429 that does not say how long."""

PATIENCE_S = 1.2
"""How long a call may wait for its turn, so that the pages of a listing follow each other; beyond that it is put off."""

_TAKE = """
local held = redis.call('PTTL', KEYS[2])
if held > 0 then return held end
local count, per = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local oldest = redis.call('LINDEX', KEYS[1], count - 1)
if oldest and tonumber(oldest) + per > now then return tonumber(oldest) + per - now end
redis.call('LPUSH', KEYS[1], now)
redis.call('LTRIM', KEYS[1], 0, count - 1)
redis.call('PEXPIRE', KEYS[1], per)
return 0
"""
"""Takes a turn and returns 0, or the milliseconds until there is one."""


class Pace:
    """The turns of one key. pause: how a short wait is spent."""

    def __init__(self, api_key: str, *, pause: Callable[[float], object] | None = None) -> None:
        self._prefix = f"dormouse:vast:{hashlib.sha256(api_key.encode()).hexdigest()[:16]}"
        self._pause = pause or threading.Event().wait

    def take(self, endpoint: str) -> None:
        """Return when the endpoint may be called. Raises ProviderBusy where that is not soon."""
        limit = LIMITS.get(endpoint)
        if limit is None:
            return
        wait_s = self._turn(endpoint, *limit)
        while wait_s > 0:
            if wait_s > PATIENCE_S:
                raise ProviderBusy(
                    f"vast.ai takes no {endpoint} call of this account for another {wait_s:.1f} s",
                    hint="it is asked again by itself",
                    retry_after_s=wait_s,
                )
            self._pause(wait_s)
            wait_s = self._turn(endpoint, *limit)

    def hold(self, endpoint: str, seconds: float) -> None:
        """vast.ai itself has asked for silence: every process keeps it."""
        broker.tell("SET", f"{self._prefix}:{endpoint}:held", "1", "PX", max(1, int(seconds * 1000)))

    def _turn(self, endpoint: str, count: int, per_s: float) -> float:
        key = f"{self._prefix}:{endpoint}"
        try:
            waited = broker.client().eval(_TAKE, 2, key, f"{key}:held", str(count), str(int(per_s * 1000)))
        except redis.RedisError as error:
            log.warning("broker away, a %s call to vast.ai is not paced: %s", endpoint, error)
            return 0.0
        return cast(int, waited) / 1000

    # -- what it said lately ------------------------------------------------------------------------------------

    def remembered(self, about: str, what: str) -> Any:
        """What `remember` was told, as long as it is not older than it may be; None where nothing is known."""
        try:
            text = cast("str | None", broker.client().hget(f"{self._prefix}:{about}", what))
        except redis.RedisError:
            return None
        return None if text is None else json.loads(text)

    def remember(self, about: str, what: str, value: Any, *, life_s: float) -> None:
        """All that is remembered of one subject is forgotten together, life_s after the first of it."""
        if life_s <= 0:
            return
        key = f"{self._prefix}:{about}"
        try:
            client = broker.client()
            client.hset(key, what, json.dumps(value))
            # PEXPIRE's own NX is younger than the oldest Redis that will do.
            if client.pttl(key) < 0:
                client.pexpire(key, int(life_s * 1000))
        except redis.RedisError as error:
            log.info("broker away, an answer of vast.ai is not remembered: %s", error)

    def forget(self, about: str) -> None:
        broker.tell("DEL", f"{self._prefix}:{about}")
