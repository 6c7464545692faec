"""POST /api/agent/queue: the parked poll through which a worker's messages reach it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from urllib.parse import parse_qs

from aiohttp import web
from redis.exceptions import RedisError

from agent import wire
from gateway import gate
from gateway.answers import Refused, bad_request, nothing, raw_answer
from gateway.broker import Broker, Taken
from gateway.lobby import Lobby, Waiter, Wake
from gateway.tally import Tally
from gateway.tokens import Claims

log = logging.getLogger("gateway.polls")


def wait_s(query: str) -> float:
    """How long the client wants to wait: `wait` in seconds, capped by the wire's limit; without one, that limit."""
    try:
        values = parse_qs(query, max_num_fields=8).get("wait", [str(wire.POLL_WAIT_LIMIT_S)])
        asked = float(values[-1])
    except ValueError:
        asked = float("nan")
    if not asked >= 0:
        raise bad_request(
            "wait must be a number of seconds from 0", hint=f"use wait={wire.POLL_WAIT_LIMIT_S}"
        )
    return min(asked, wire.POLL_WAIT_LIMIT_S)


class QueuePolls:
    def __init__(self, *, broker: Broker, lobby: Lobby, tally: Tally) -> None:
        self._broker = broker
        self._lobby = lobby
        self._tally = tally
        self._returning: set[asyncio.Task[None]] = set()

    async def handle(self, request: web.BaseRequest, *, query: str, claims: Claims) -> web.StreamResponse:
        """200 with the message's bytes, or 204 after at most `wait` seconds.

        Delivery is at most once: a message that was written to a connection which then breaks is gone. One that
        was taken for a client already known to be away goes back. Raises Refused; RedisError while Redis is away.
        """
        until = asyncio.get_running_loop().time() + wait_s(query)
        self._tally.polls += 1
        with self._lobby.enter(claims.worker_id) as waiter:
            await self._admit(claims)
            self._lobby.seat(waiter)
            while not waiter.ended:
                message = await self._take(claims)
                if message is not None:
                    return await self._deliver(request, message, waiter)
                if await waiter.wait(until=until) is not Wake.LOOK:
                    break
        return nothing()

    async def settle(self) -> None:
        """Wait for messages that are on their way back into their queue."""
        while self._returning:
            await asyncio.wait(self._returning)

    async def _admit(self, claims: Claims) -> None:
        gate.admit(await self._broker.gate_entry(claims.worker_id), claims)

    async def _take(self, claims: Claims) -> bytes | None:
        """The worker's next message. Raises Refused where it has lost its say; its message stays in the queue then."""
        taking = asyncio.ensure_future(self._broker.take(claims.worker_id))
        try:
            # Shielded: cancelled half-way, the message would have left Redis and arrived nowhere.
            taken = await asyncio.shield(taking)
            gate.admit(taken.gate_entry, claims)
        except (asyncio.CancelledError, Refused):
            self._later(self._put_back_taken(claims.worker_id, taking))
            raise
        return taken.message

    async def _deliver(self, request: web.BaseRequest, message: bytes, waiter: Waiter) -> web.StreamResponse:
        if waiter.ended:
            # The worker polls anew because this connection broke, or this process is about to end.
            self._later(self._put_back(waiter.worker_id, message))
            return nothing()
        response = raw_answer(message)
        try:
            await response.prepare(request)
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError) as error:
            self._later(self._put_back(waiter.worker_id, message))
            if isinstance(error, asyncio.CancelledError):
                raise
            return response
        self._tally.delivered += 1
        return response

    def _later(self, work: Coroutine[None, None, None]) -> None:
        """Do `work` in a task of its own: the poll that it belongs to is being cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _put_back_taken(self, worker_id: str, taking: asyncio.Future[Taken]) -> None:
        try:
            taken = await taking
        except RedisError:
            return
        if taken.message is not None:
            await self._put_back(worker_id, taken.message)

    async def _put_back(self, worker_id: str, message: bytes) -> None:
        try:
            await self._broker.put_back(worker_id, message)
        except RedisError as error:
            log.warning("worker=%s lost a ring: its client left and redis went away: %s", worker_id, error)
            return
        self._tally.returned += 1
        log.info("worker=%s put a message back: its client left", worker_id)
