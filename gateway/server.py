"""aiohttp's HTTP server with this port's manners: bounded heads, bounded connections, refusals as JSON."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.answers import Refused
from gateway.settings import Limits

log = logging.getLogger("gateway.server")

HEAD_LINE_LIMIT_BYTES = 8190
"""For the request line and for each header."""

HEADERS_LIMIT = 100
READ_BUFFER_BYTES = 64 * 1024
LINGER_S = 5.0
"""How long the rest of a body is read and thrown away after an early answer, so that the client sees the answer."""

BACKLOG = 2048

# aiohttp's own access log would have a line for every poll.
_NO_LOG = logging.getLogger("gateway.server.unused")
_NO_LOG.setLevel(logging.WARNING)


class Connection(RequestHandler):
    """One client's connection. Its first request's head, and each later one's, must arrive within `header_s`."""

    __slots__ = ("_head_timer", "_header_s")

    def __init__(self, server: PublicServer, *, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.keepalive_s,
            max_line_size=HEAD_LINE_LIMIT_BYTES,
            max_field_size=HEAD_LINE_LIMIT_BYTES,
            max_headers=HEADERS_LIMIT,
            lingering_time=LINGER_S,
            read_bufsize=READ_BUFFER_BYTES,
            auto_decompress=False,
            access_log=_NO_LOG,
        )
        self._header_s = limits.header_s
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # aiohttp waits on _waiter for a complete head. It bounds idle connections, and so an unfinished head too,
        # but only by the keep-alive time, which must be long.
        if self._waiter is None or self._waiter.done():
            self._stop_head_timer()
        elif data and self._head_timer is None:
            self._head_timer = self._loop.call_later(self._header_s, self._head_overdue)

    def _head_overdue(self) -> None:
        self._head_timer = None
        if self._waiter is not None and not self._waiter.done():
            self.force_close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what could not be parsed, and to a fault of ours. The connection ends either way."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already: all that is left is to end the connection")
        if status < 500:
            log.info("refused a malformed request from %s: %s", request.remote, type(exc).__name__)
            return Refused(
                status,
                "bad_request",
                "this is not HTTP that can be read",
                hint="look at the request's head",
                close=True,
            ).response()
        log.error("a request failed", exc_info=exc)
        return Refused(
            500, "internal", "the gateway failed", hint="tell the operator; see the log", close=True
        ).response()


class PublicServer(web.Server):
    """handler: called for each request; cancelled when its client leaves."""

    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], *, limits: Limits
    ) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._limits = limits

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self._connections) > self._limits.connections:
            log.warning("%d connections are open: one more was closed", self._limits.connections)
            transport.abort()

    def __call__(self) -> Connection:
        return Connection(self, limits=self._limits, loop=self._loop)

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Start accepting. Raises OSError where the address cannot be had."""
        listener = await self._loop.create_server(self, host, port, backlog=BACKLOG)
        for listening in listener.sockets:
            # Accepted sockets inherit it (Linux). A client that stops reading, or whose network went away, cannot
            # keep unsent bytes here for longer than any other silent client.
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                timeout_ms = int(self._limits.client_idle_s * 1000)
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        return listener

    def close_idle(self, *, busy: set[RequestHandler]) -> None:
        """End every connection that is not among the busy ones."""
        for connection in self.connections:
            if connection not in busy:
                connection.force_close()
