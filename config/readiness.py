"""What is missing before this installation can work: asked by /readyz, by the launcher and by whoever watches it."""

from __future__ import annotations

from datetime import datetime, timedelta

import redis
from django.conf import settings
from django.db import DatabaseError, connection

from config.beat import LEASE
from config.launcher.lockfile import STARTING, starting
from config.schedule import TICKS
from core import broker
from core.models import Lease, TickRun
from gateway import keys

WORKERS = {"core.chains_tick": "tick", "config.chains_pulse": "chains"}
"""A tick that runs on that queue, whatever else may be wrong: its last run says that a worker serves the queue."""

MISSED_TICKS = 3
SLACK_S = 10
"""A tick may be this much later than MISSED_TICKS intervals: a worker restarts, a neighbour takes the processor."""


def missing(*, now: datetime) -> list[str]:
    """One sentence for each part that does not work; empty when all do."""
    broken = [*_database(), *_redis()]
    if any(sentence.startswith("database") for sentence in broken):
        return broken
    return [*broken, *_beat(now), *_workers(now), *_launcher()]


def _database() -> list[str]:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        return [f"database: {' '.join(str(error).split())}"]
    return []


def _redis() -> list[str]:
    """Redis itself, and the gateway through it: it stays subscribed to the rings for as long as it lives."""
    try:
        [(_, listeners)] = broker.client().pubsub_numsub(keys.RINGS)
    except redis.RedisError as error:
        return [f"redis: {error}"]
    return [] if listeners else ["gateway: none listens for rings"]


def _beat(now: datetime) -> list[str]:
    led = Lease.objects.filter(name=LEASE, until__gt=now).exists()
    return [] if led else ["beat: none holds the lease"]


def _workers(now: datetime) -> list[str]:
    every_s = {tick.task: tick.every_s for tick in TICKS}
    ran = dict(TickRun.objects.filter(name__in=WORKERS).values_list("name", "finished_at"))
    found = []
    for name, queue in WORKERS.items():
        limit = timedelta(seconds=MISSED_TICKS * every_s[name] + SLACK_S)
        last = ran.get(name)
        if last is None:
            found.append(f"worker of queue {queue}: {name} has not run yet")
        elif now - last > limit:
            found.append(f"worker of queue {queue}: {name} last ran {(now - last).total_seconds():.0f} s ago")
    return found


def _launcher() -> list[str]:
    return [STARTING] if starting(settings.DATA_DIR) else []
