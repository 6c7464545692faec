"""Reading a request's body from a client that may be slow, lying or gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from aiohttp import HttpVersion11, web

from gateway.answers import Refused


class Body:
    """The body of one request, read piece by piece; no single wait for the client is longer than `idle_s`.

    failure: why reading ended early. Whoever reads through another library's task finds the reason here.
    """

    def __init__(self, request: web.BaseRequest, *, idle_s: float, limit_bytes: int) -> None:
        self._request = request
        self._idle_s = idle_s
        self._limit_bytes = limit_bytes
        self._read_bytes = 0
        self.declared_bytes = request.content_length
        self.failure: Refused | None = None
        self.on_progress: Callable[[], None] | None = None

    async def invite(self) -> None:
        """Refuse what is declared too large, and say 100 Continue to a client that waits for it."""
        if (self.declared_bytes or 0) > self._limit_bytes:
            raise self._fail(self._too_large())
        expect = self._request.headers.get("Expect")
        if expect is None or self._request.version < HttpVersion11:
            return
        if expect.lower() != "100-continue":
            raise self._fail(
                Refused(
                    417, "bad_expect", f"cannot do {expect[:100]!r}", hint="send no Expect header", close=True
                )
            )
        writer = self._request.writer
        await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # aiohttp takes bytes written to mean that the answer has begun.
        writer.output_size = 0

    async def head(self, upto_bytes: int) -> tuple[bytes, bool]:
        """The first bytes, at least `upto_bytes` of them unless the body ends earlier; and whether it has ended."""
        pieces: list[bytes] = []
        size = 0
        while size < upto_bytes and (piece := await self._next()):
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces), self._request.content.at_eof()

    async def whole(self) -> bytes:
        """All of it, at most `limit_bytes`."""
        await self.invite()
        return (await self.head(self._limit_bytes + 1))[0]

    async def pieces_after(self, head: bytes) -> AsyncIterator[bytes]:
        """`head`, then the rest as it comes."""
        yield head
        while piece := await self._next():
            yield piece

    async def _next(self) -> bytes:
        """The next bytes, or b"" at the end. Raises Refused, which is kept in `failure` too."""
        content = self._request.content
        try:
            # Most bodies are here already; a timer for each would cost more than the reading.
            piece = content.read_nowait()
            if not piece and not content.at_eof():
                async with asyncio.timeout(self._idle_s):
                    piece = await content.readany()
        except TimeoutError:
            message = f"the request's body stood still for {self._idle_s:g} s"
            raise self._fail(
                Refused(408, "client_stalled", message, hint="send the body without long pauses", close=True)
            ) from None
        except (web.RequestPayloadError, ConnectionError) as error:
            raise self._fail(
                Refused(
                    400, "bad_body", f"the body is damaged: {error}"[:200], hint="send it again", close=True
                )
            ) from error
        self._read_bytes += len(piece)
        if self._read_bytes > self._limit_bytes:
            raise self._fail(self._too_large())
        if self.on_progress is not None:
            self.on_progress()
        return piece

    def _too_large(self) -> Refused:
        limit = f"the body may have at most {self._limit_bytes} bytes"
        return Refused(413, "body_too_large", limit, hint="send less at once", close=True)

    def _fail(self, refused: Refused) -> Refused:
        self.failure = refused
        return refused
