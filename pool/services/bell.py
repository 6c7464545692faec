"""The dispatcher's bell: any number of rings until its next run begins are one message.

A run costs most of a second with 10,000 workers. Ten thousand that come back from an outage, or a person who submits a
thousand jobs, would otherwise fill the ticks' queue for hours, and nobody's status posts would be stored meanwhile.
"""

from __future__ import annotations

import logging

import redis
from django.db import transaction

from core import broker
from core.doorbell import ring

log = logging.getLogger(__name__)

DISPATCH_TICK = "pool.dispatch_tick"

RUNG = "dormouse:rung:dispatcher"
"""There is a message that no run has begun with."""

RUNG_MS = 2_000
"""The tick's own interval: should the message be lost, that is what it costs anyway."""


def dispatcher_ring() -> None:
    """Have the queued jobs offered, once the present transaction has committed."""
    transaction.on_commit(_ring_once, robust=True)


def dispatcher_begins() -> None:
    """Call it before a run looks at any row: who rings from now on may have changed what it has read."""
    broker.tell("DEL", RUNG)


def _ring_once() -> None:
    try:
        # Whoever finds the mark has committed before the run takes it away, and so before the run looks.
        first = broker.client().set(RUNG, "1", nx=True, px=RUNG_MS)
    except redis.RedisError as error:
        log.warning("broker away, the dispatcher waits for its tick: %s", error)
        return
    if first:
        ring(DISPATCH_TICK)
