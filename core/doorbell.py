"""Doorbells: Celery messages that carry an id and nothing else. Losing one costs latency, never correctness.

They are rung after the commit of the transaction that made the work exist; the ticks ring again what nobody
answered. Services ring by task name: they never import tasks (a test checks that every name is registered).
"""

from __future__ import annotations

import logging

import redis
from celery import current_app
from django.db import transaction
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from agent import wire
from core import broker
from gateway import keys

log = logging.getLogger(__name__)


def ring(
    task: str,
    *args: str,
    time_limit_s: float | None = None,
    after_s: float = 0,
    void_after_s: float | None = None,
) -> None:
    """Ring `task` with ids once the present transaction has committed (at once outside of one).

    after_s: let the bell sound later, by seconds at most; for longer waits a row's time and a tick are the way.
    void_after_s: nobody need answer it later than this, because it will have been rung again.
    """
    transaction.on_commit(lambda: _send(task, args, time_limit_s, after_s, void_after_s), robust=True)


def ring_worker(worker_id: str, dispatch_id: str) -> None:
    """Put a dispatch id into a GPU worker's own queue after commit, and wake its parked poll."""
    transaction.on_commit(lambda: _send_to_worker(worker_id, dispatch_id), robust=True)


def _send(
    task: str, args: tuple[str, ...], time_limit_s: float | None, after_s: float, void_after_s: float | None
) -> None:
    options = {"time_limit": time_limit_s, "soft_time_limit": time_limit_s * 0.9} if time_limit_s else {}
    if void_after_s is not None:
        options["expires"] = void_after_s
    if after_s:
        options["countdown"] = after_s
    try:
        current_app.send_task(task, args=list(args), retry=False, **options)
    except (OperationalError, redis.RedisError, OSError) as error:
        log.warning("broker away, %s %s waits for its tick: %s", task, args, error)


def _send_to_worker(worker_id: str, dispatch_id: str) -> None:
    key = wire.queue_key(worker_id)
    # An explicit, undeclared queue on the anonymous exchange leaves no binding keys behind and does not make
    # `app.amqp.queues` grow with every worker.
    queue = Queue(key, Exchange(""), routing_key=key, no_declare=True)
    try:
        current_app.send_task(wire.TASK_RING, args=[dispatch_id], queue=queue, retry=False)
    except (OperationalError, redis.RedisError, OSError) as error:
        log.warning(
            "broker away, worker=%s dispatch=%s waits for its tick: %s", worker_id, dispatch_id, error
        )
        return
    broker.tell("PUBLISH", keys.RINGS, worker_id)
