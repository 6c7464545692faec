"""POST /api/agent/status: a worker's reading, checked, into the stream that a tick of the control plane drains."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from aiohttp import web

from agent import wire
from gateway import gate
from gateway.answers import Refused, bad_request, json_answer
from gateway.bodies import Body
from gateway.broker import Broker
from gateway.pace import Pace
from gateway.tally import Tally
from gateway.tokens import Claims

log = logging.getLogger("gateway.intake")


def read_post(body: bytes, claims: Claims) -> wire.StatusPost:
    """The post in `body`. Raises Refused: 400 not a status post, 403 another worker's, 409 another epoch's."""
    try:
        post = wire.StatusPost.from_json(json.loads(body))
    except wire.WireError as error:
        raise bad_request(
            str(error)[:300], code="bad_status", hint="send the fields of wire.StatusPost"
        ) from error
    except (ValueError, RecursionError) as error:
        raise bad_request(
            "the body is not JSON", code="bad_json", hint="send one JSON object in UTF-8"
        ) from error
    if post.worker_id != claims.worker_id:
        raise Refused(
            403, "not_yours", "worker_id is not the token's worker", hint="post your own status only"
        )
    if post.epoch != claims.epoch:
        raise gate.stand_down(f"the post is of epoch {post.epoch}, the token of epoch {claims.epoch}")
    return post


def as_checked(post: wire.StatusPost) -> str:
    """The post as JSON, written anew: only fields that were checked reach the stream. What wire.to_json says, in a
    fifth of its time (dataclasses.asdict copies every value)."""
    fields = {name: value for name, value in vars(post).items() if value is not None}
    return json.dumps(fields, default=vars, separators=(",", ":"))


def standing_orders(raw: bytes | None) -> list[Any]:
    """What Django wrote into `keys.ORDERS`; an entry that cannot be read holds no orders."""
    try:
        orders = json.loads(raw) if raw is not None else []
    except ValueError:
        orders = None
    if not isinstance(orders, list):
        log.warning("orders entry unreadable, taken as empty: %.100r", raw)
        return []
    return orders


class StatusIntake:
    """body_idle_s: how long a client may pause within its body."""

    def __init__(self, *, broker: Broker, pace: Pace, tally: Tally, body_idle_s: float) -> None:
        self._broker = broker
        self._pace = pace
        self._tally = tally
        self._body_idle_s = body_idle_s

    async def handle(self, request: web.BaseRequest, *, claims: Claims, now: float) -> web.StreamResponse:
        """200 with wire.StatusAnswer. now: seconds since the epoch. Raises Refused; RedisError."""
        # Not by `now`: a wall clock that is set back would refuse everybody until it has caught up.
        late_s = self._pace.wait_s(claims.worker_id, now=asyncio.get_running_loop().time())
        if late_s:
            raise Refused(
                429,
                "too_many_posts",
                "this worker posts its status too often",
                hint="post when next_in_s says",
                retry_after_s=late_s,
            )
        if "Content-Encoding" in request.headers:
            raise bad_request("the body is encoded", status=415, code="bad_encoding", hint="send plain JSON")
        body = Body(request, idle_s=self._body_idle_s, limit_bytes=wire.STATUS_BODY_LIMIT_BYTES)
        post = read_post(await body.whole(), claims)
        posted = await self._broker.post(claims.worker_id, as_checked(post), at=now)
        try:
            entry = gate.admit(posted.gate_entry, claims)
        except Refused:
            # One round trip for the many; the few that may not post take their reading back.
            await self._broker.unpost(posted.stream_id)
            raise
        self._tally.posts += 1
        orders = standing_orders(posted.orders)
        return json_answer({"next_in_s": entry.next_in_s, "epoch": entry.epoch, "orders": orders})
