"""Redis as the gateway uses it: five operations, one subscription, and what is said while Redis is away."""

from __future__ import annotations

from typing import NamedTuple, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from agent import wire
from gateway import keys
from gateway.answers import Refused

CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 4.0
AWAY_RETRY_AFTER_S = 2


class Posted(NamedTuple):
    """What one round trip of a status post brings back. gate_entry, orders: as Django wrote them, or None."""

    gate_entry: bytes | None
    orders: bytes | None
    stream_id: bytes


class Taken(NamedTuple):
    """The worker's gate entry as Django wrote it, and its next message, which is out of the queue now; or None."""

    gate_entry: bytes | None
    message: bytes | None


class Broker:
    """Every operation raises redis.exceptions.RedisError while Redis is away: at once where nobody listens, after
    ANSWER_TIMEOUT_S (and, for a connection, CONNECT_TIMEOUT_S) where Redis is silent."""

    def __init__(self, url: str, *, connections: int) -> None:
        # Blocking: a plain pool raises when many parked polls end at the same moment. One retry at once, not after
        # silence: after a restart of Redis the pool's sockets are stale. Nothing here is harmed by being done twice.
        # No driver_info: it would cost a round trip for each connection, and a hung Redis a second timeout.
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=ANSWER_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            protocol=2,
            driver_info=None,
        )
        self._redis = Redis.from_pool(pool)

    async def gate_entry(self, worker_id: str) -> bytes | None:
        return cast("bytes | None", await self._redis.hget(keys.GATE, worker_id))

    async def take(self, worker_id: str) -> Taken:
        """In one round trip: is it let in, and its next message, from the end where a Celery worker would take it."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hget(keys.GATE, worker_id)
            pipeline.rpop(wire.queue_key(worker_id))
            return Taken(*await pipeline.execute())

    async def put_back(self, worker_id: str, message: bytes) -> None:
        """Make `message` the worker's next one again, and ring."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.rpush(wire.queue_key(worker_id), message)
            pipeline.publish(keys.RINGS, worker_id)
            await pipeline.execute()

    async def post(self, worker_id: str, body: str, *, at: float) -> Posted:
        """Append a status post to the stream and fetch what its answer needs. at: seconds since the epoch."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hget(keys.GATE, worker_id)
            pipeline.hget(keys.ORDERS, worker_id)
            pipeline.xadd(
                keys.STATUS_STREAM,
                {"body": body, "at": f"{at:.3f}"},
                maxlen=keys.STATUS_STREAM_LENGTH,
                approximate=True,
            )
            return Posted(*await pipeline.execute())

    async def unpost(self, stream_id: bytes) -> None:
        """Take a post out of the stream again."""
        await self._redis.xdel(keys.STATUS_STREAM, stream_id)

    async def close(self) -> None:
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()


def subscription_client(url: str) -> Redis:
    """For one subscription. No retry of its own: whoever holds it must learn that rings may have been missed."""
    return Redis.from_url(
        url,
        socket_timeout=ANSWER_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        driver_info=None,
    )


def broker_away() -> Refused:
    return Refused(
        503,
        "broker_away",
        "the message broker does not answer",
        hint="nothing is lost; try again after Retry-After seconds",
        retry_after_s=AWAY_RETRY_AFTER_S,
    )
