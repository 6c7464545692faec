"""Everything that is Django's: the request passed on and the answer passed back, streaming, in constant memory."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from yarl import URL

from gateway.answers import SERVER_HEADER, Refused
from gateway.bodies import Body
from gateway.headers import Target, to_client, to_web
from gateway.settings import Limits, Upstream

log = logging.getLogger("gateway.passthrough")
access_log = logging.getLogger("gateway.access")

HEAD_BYTES = 64 * 1024
"""So much of a body is read before Django hears of the request: a small one from a slow client holds no thread of
Django, and reaches it with a Content-Length, without which Django's WSGI handler takes a body to be empty."""

STREAM_BUFFER_BYTES = 64 * 1024
CONNECT_TIMEOUT_S = 2.0
QUEUE_TIMEOUT_S = 10.0
"""How long a request waits for one of `Limits.web_connections`, and then for the connection."""

AWAY_RETRY_AFTER_S = 2
ANSWER_FIELD_LIMIT_BYTES = 32 * 1024
CLIENT_LEFT_STATUS = 499
"""nginx's number, in the access log only, for a client that did not wait for its answer."""

# Would otherwise be added where the client sent none.
_NO_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


@dataclass
class _AccessLine:
    """status stays CLIENT_LEFT_STATUS unless an answer was sent. sent_bytes: of the answer's body."""

    status: int = CLIENT_LEFT_STATUS
    sent_bytes: int = 0


class Passthrough:
    """A proxy to `upstream`. Every request has a connection of its own: a kept one may be closed by gunicorn at the
    very moment of its next use, and a POST cannot be tried twice; a unix socket's connection costs microseconds.
    """

    def __init__(self, upstream: Upstream, *, limits: Limits, trusted_proxies: int) -> None:
        self._upstream = upstream
        self._limits = limits
        self._trusted_proxies = trusted_proxies
        connector: aiohttp.BaseConnector
        if upstream.socket_path is not None:
            connector = aiohttp.UnixConnector(
                upstream.socket_path, limit=limits.web_connections, force_close=True
            )
        else:
            connector = aiohttp.TCPConnector(limit=limits.web_connections, force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NO_AUTO_HEADERS,
            timeout=aiohttp.ClientTimeout(
                total=None, connect=QUEUE_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S
            ),
            read_bufsize=STREAM_BUFFER_BYTES,
            max_line_size=ANSWER_FIELD_LIMIT_BYTES,
            max_field_size=ANSWER_FIELD_LIMIT_BYTES,
        )

    async def close(self) -> None:
        await self._session.close()

    async def handle(
        self, request: web.BaseRequest, target: Target, *, closing: Callable[[], bool]
    ) -> web.StreamResponse:
        """Django's answer, or the refusal of one; one line of access log either way. closing: is this process
        ending, so that the client must not use its connection again?"""
        started = time.monotonic()
        line = _AccessLine()
        try:
            return await self._pass(request, target, line, closing=closing)
        except Refused as refused:
            line.status = refused.status
            raise
        finally:
            took_ms = (time.monotonic() - started) * 1000
            path = ascii(target.path)[1:-1]
            access_log.info(
                "%s %s %d %.1fms %dB", request.method, path, line.status, took_ms, line.sent_bytes
            )

    async def _pass(
        self, request: web.BaseRequest, target: Target, line: _AccessLine, *, closing: Callable[[], bool]
    ) -> web.StreamResponse:
        body = Body(request, idle_s=self._limits.client_idle_s, limit_bytes=self._limits.body_bytes)
        await body.invite()
        head, ended = await body.head(HEAD_BYTES)
        answer = await self._ask(request, target, body, head, ended=ended)
        try:
            response = web.StreamResponse(
                status=answer.status, reason=answer.reason, headers=to_client(answer.headers.items())
            )
            if closing():
                response.force_close()
            await self._stream_back(request, answer, response, line)
            return response
        finally:
            answer.close()

    async def _ask(
        self, request: web.BaseRequest, target: Target, body: Body, head: bytes, *, ended: bool
    ) -> aiohttp.ClientResponse:
        """Django's answer as far as its headers. Raises Refused."""
        headers = to_web(
            request.headers.items(),
            peer=request.remote,
            trusted_proxies=self._trusted_proxies,
            target=target,
        )
        data: bytes | AsyncIterator[bytes] | None
        if ended:
            headers.popall("Content-Length", None)
            data = head or None
        else:
            data = body.pieces_after(head)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.web_answer_s) as patience:
                body.on_progress = lambda: patience.reschedule(loop.time() + self._limits.web_answer_s)
                try:
                    return await self._session.request(
                        request.method, self._url(target), headers=headers, data=data, allow_redirects=False
                    )
                finally:
                    body.on_progress = None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise body.failure or self._no_answer(error) from error

    def _url(self, target: Target) -> URL:
        return URL.build(
            scheme="http",
            host=self._upstream.host or "web",
            port=self._upstream.port,
            path=target.path,
            query_string=target.query,
            encoded=True,
        )

    def _no_answer(self, error: Exception) -> Refused:
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            log.warning("django away at %s: %s", self._upstream, error)
            return Refused(
                503,
                "web_away",
                "the control plane's web process is away, or has more requests than it can take",
                hint="nothing was done; try again after Retry-After seconds",
                retry_after_s=AWAY_RETRY_AFTER_S,
            )
        if isinstance(error, TimeoutError):
            log.warning("django silent for %g s", self._limits.web_answer_s)
            return Refused(
                504,
                "web_slow",
                f"the web process was silent for {self._limits.web_answer_s:g} s",
                hint="the request may have taken effect: look before trying again",
                close=True,
            )
        log.warning("django broke off at %s: %r", self._upstream, error)
        return Refused(
            502,
            "web_broke_off",
            "the web process ended the connection without an answer",
            hint="the request may have taken effect: look before trying again",
            retry_after_s=AWAY_RETRY_AFTER_S,
            close=True,
        )

    async def _stream_back(
        self,
        request: web.BaseRequest,
        answer: aiohttp.ClientResponse,
        response: web.StreamResponse,
        line: _AccessLine,
    ) -> None:
        response.headers.setdefault("Server", SERVER_HEADER)
        try:
            await response.prepare(request)
            while True:
                async with asyncio.timeout(self._limits.web_answer_s):
                    piece = await answer.content.readany()
                if not piece:
                    break
                async with asyncio.timeout(self._limits.client_idle_s):
                    await response.write(piece)
                line.sent_bytes += len(piece)
            async with asyncio.timeout(self._limits.client_idle_s):
                await response.write_eof()
            line.status = answer.status
        except ConnectionError:
            return  # The client left; the access log's 499 says so.
        except (aiohttp.ClientError, TimeoutError) as error:
            # The status is out already. Cutting the connection is the one way left to say "this is not all".
            log.warning("cut an answer short after %d bytes: %r", line.sent_bytes, error)
            line.status = answer.status
            if request.transport is not None:
                request.transport.abort()
