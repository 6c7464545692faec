"""Does anybody listen where Django should be?"""

from __future__ import annotations

import asyncio

from gateway.settings import Upstream

BELIEVED_S = 2.0
"""One connection in this time, however many ask: the question is public."""

TIMEOUT_S = 1.0


class Reachability:
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._believed_until = float("-inf")
        self._answer = False
        self._asking = asyncio.Lock()

    async def check(self, *, now: float) -> bool:
        """True where a connection can be made. now: a clock that only goes forward."""
        async with self._asking:
            if now >= self._believed_until:
                self._answer = await self._connects()
                self._believed_until = now + BELIEVED_S
            return self._answer

    async def _connects(self) -> bool:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if self._upstream.socket_path is not None:
                    _, writer = await asyncio.open_unix_connection(self._upstream.socket_path)
                else:
                    _, writer = await asyncio.open_connection(self._upstream.host, self._upstream.port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True
