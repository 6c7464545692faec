"""The one subscription of this process: rings and revocations, from Redis to the parked polls."""

from __future__ import annotations

import asyncio
import logging

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from gateway import keys
from gateway.lobby import Lobby

log = logging.getLogger("gateway.rings")

QUIET_S = 10.0
"""After so much silence the connection is tried with a PING; as much again without an answer, and it is dead.
Behind a NAT or a firewall a dead connection looks like a quiet one for hours."""

RETRY_FIRST_S = 0.05
RETRY_MOST_S = 1.0

_CHANNELS = (keys.RINGS, keys.REVOKED)


class Rings:
    """Wakes the lobby's polls. `connected` says whether rings arrive at present; None before the first try."""

    def __init__(self, redis: Redis, lobby: Lobby, *, quiet_s: float = QUIET_S) -> None:
        self._redis = redis
        self._lobby = lobby
        self._quiet_s = quiet_s
        self._pause_s = RETRY_FIRST_S
        self.connected: bool | None = None

    async def run(self) -> None:
        """Listen until cancelled, through any number of lost connections."""
        while True:
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                if self.connected is not False:
                    log.warning("redis away, parked polls wait for its return: %s", error)
                self.connected = False
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * 2, RETRY_MOST_S)

    async def _listen(self) -> None:
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(*_CHANNELS)
            asked = False
            while True:
                message = await subscription.get_message(timeout=self._quiet_s)
                if message is not None:
                    asked = False
                    self._take(message)
                elif asked:
                    raise RedisConnectionError(f"no answer to a PING within {self._quiet_s:g} s")
                else:
                    await subscription.ping()
                    asked = True

    def _take(self, message: dict[str, object]) -> None:
        data = message["data"]
        if message["type"] == "message" and isinstance(data, bytes):
            # A ring and a revocation ask the same of a poll: look at the gate, then at the queue.
            self._lobby.look(data.decode(errors="replace"))
        elif message["type"] == "subscribe" and data == len(_CHANNELS):
            # Also after redis-py's own reconnect: whatever was rung in between was not heard.
            log.info("redis connected, %d parked polls look again", self._lobby.parked)
            self.connected = True
            self._pause_s = RETRY_FIRST_S
            self._lobby.look_all()
