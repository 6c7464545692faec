"""The gateway as a whole: routing, start, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine

from aiohttp import HttpVersion10, web
from aiohttp.web_protocol import RequestHandler
from redis.exceptions import RedisError

from agent import wire
from gateway.answers import Refused, json_answer
from gateway.broker import Broker, broker_away, subscription_client
from gateway.headers import Target, read_target
from gateway.intake import StatusIntake
from gateway.lobby import Lobby
from gateway.pace import Pace
from gateway.passthrough import Passthrough
from gateway.polls import QueuePolls
from gateway.rings import Rings
from gateway.server import PublicServer
from gateway.settings import Settings
from gateway.tally import Tally, tell
from gateway.tokens import Claims, Tokens
from gateway.upstream import Reachability

log = logging.getLogger("gateway")

HEALTHZ = "/gateway/healthz"
LAST_WORDS_S = 0.5
"""After the drain: how long answers that are ready may still take to leave."""


CANCEL_AGAIN_S = 0.05


class Gateway:
    """start(), then stop() once. Needs neither Redis nor Django to start, and finds both again by itself."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        limits = settings.limits
        self._tokens = Tokens(settings.agent_keys)
        self._tally = Tally()
        self._lobby = Lobby()
        self._broker = Broker(settings.redis_url, connections=limits.redis_connections)
        self._subscription = subscription_client(settings.redis_url)
        self._rings = Rings(self._subscription, self._lobby)
        self._polls = QueuePolls(broker=self._broker, lobby=self._lobby, tally=self._tally)
        self._intake = StatusIntake(
            broker=self._broker,
            pace=Pace(limits.posts_per_s),
            tally=self._tally,
            body_idle_s=min(limits.client_idle_s, limits.header_s),
        )
        self._passthrough = Passthrough(
            settings.upstream, limits=limits, trusted_proxies=settings.trusted_proxies
        )
        self._reachability = Reachability(settings.upstream)
        self._server = PublicServer(self._handle, limits=limits)
        self._listener: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._busy: set[RequestHandler] = set()
        self._rest = asyncio.Event()
        self._closing = False

    async def start(self) -> tuple[str, int]:
        """Accept connections; returns the address that clients reach. Raises OSError where it cannot be had."""
        self._listener = await self._server.listen(self._settings.listen_host, self._settings.listen_port)
        self._run(self._rings.run())
        self._run(tell(self._tally, parked=lambda: self._lobby.parked))
        host, port = self._listener.sockets[0].getsockname()[:2]
        return host, port

    async def stop(self) -> None:
        """No new connections; parked polls end with 204; running requests get Limits.drain_s to finish."""
        self._closing = True
        if self._listener is not None:
            self._listener.close()
        self._lobby.close()
        self._server.close_idle(busy=self._busy)
        try:
            async with asyncio.timeout(self._settings.limits.drain_s):
                while self._busy:
                    self._rest.clear()
                    await self._rest.wait()
        except TimeoutError:
            log.warning("%d requests did not finish in time and were cut off", len(self._busy))
        await self._server.shutdown(LAST_WORDS_S)
        await self._polls.settle()
        await asyncio.gather(*map(_end, self._tasks))
        await self._passthrough.close()
        with contextlib.suppress(RedisError, OSError):
            await self._broker.close()
            await self._subscription.aclose()
        log.info("ended: %s", self._tally.summary())

    def _run(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        self._busy.add(connection)
        try:
            response = await self._route(request)
        except Refused as refused:
            response = self._refuse(refused)
        except RedisError:
            response = self._refuse(broker_away())
        finally:
            self._busy.discard(connection)
            self._rest.set()
        if self._closing and not response.prepared:
            response.force_close()
        return response

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.version < HttpVersion10:
            raise Refused(400, "bad_request", "HTTP before 1.0", hint="speak HTTP/1.1", close=True)
        if request.method == "CONNECT":
            raise Refused(405, "method_not_allowed", "this is no proxy", hint="ask for a path", close=True)
        target = read_target(request.raw_path)
        if target.path == wire.QUEUE:
            return await self._polls.handle(request, query=target.query, claims=self._claims(request, target))
        if target.path == wire.STATUS:
            return await self._intake.handle(request, claims=self._claims(request, target), now=time.time())
        if target.path == HEALTHZ:
            return await self._healthz(request)
        self._tally.passed += 1
        return await self._passthrough.handle(request, target, closing=lambda: self._closing)

    def _claims(self, request: web.BaseRequest, target: Target) -> Claims:
        if request.method != "POST":
            raise Refused(405, "method_not_allowed", f"{target.path} takes POST", hint="send a POST")
        return self._tokens.read(request.headers.get("Authorization"), now=time.time())

    def _refuse(self, refused: Refused) -> web.Response:
        self._tally.refused[f"{refused.status}_{refused.code}"] += 1
        return refused.response()

    async def _healthz(self, request: web.BaseRequest) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            raise Refused(405, "method_not_allowed", f"{HEALTHZ} takes GET", hint="send a GET")
        return json_answer(
            {
                "status": "ok",
                "redis": self._rings.connected is True,
                "web": await self._reachability.check(now=time.monotonic()),
                "parked_polls": self._lobby.parked,
            }
        )


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel until it has ended. Once may not do: redis-py sends within asyncio.wait_for, which on Python 3.11 forgets
    a cancellation that comes as the sending finishes (python/cpython issue 86296)."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN_S)
