"""The one connection to Redis outside Celery. Whatever is kept there can be lost: it is written again by a tick."""

from __future__ import annotations

import logging
from functools import lru_cache

import redis
from django.conf import settings

log = logging.getLogger(__name__)


@lru_cache(maxsize=2)
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_timeout=5, socket_connect_timeout=2, health_check_interval=25, decode_responses=True
    )


def client() -> redis.Redis:
    """A client with its own pool, text in and out. Its errors are redis.RedisError."""
    return _client(settings.REDIS_URL)


def tell(write: str, *args: str | float) -> bool:
    """One command whose loss costs latency only: False, and a log line, where the broker is away."""
    try:
        client().execute_command(write, *args)
    except redis.RedisError as error:
        log.warning("broker away, %s put off: %s", write, error)
        return False
    return True
