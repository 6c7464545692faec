"""What the gateway reads: the gate and the standing orders, written to Redis from the rows.

Redis is a copy that may be lost. Each change writes its own entries after the commit; `publish_all`, called by a tick,
writes every one again when Redis has lost them, and once a minute in case two commits crossed on their way.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

import redis
from django.conf import settings
from django.db import transaction
from django.db.models import F, Q

from agent import wire
from core import broker
from core.doorbell import ring_worker
from gateway import keys
from pool.models import HAUNTING, Dispatch, Interrogation, Session, Worker
from pool.services import direct_redis
from pool.states import LISTENING, DispatchState, WorkerState

log = logging.getLogger(__name__)

T = TypeVar("T")

REVOKED_EPOCH = -1
REVOKED_SHOWN = timedelta(hours=1)
"""Longer than an access token lives: afterwards a revoked worker needs no entry to be refused."""

PUBLISHED = "dormouse:published"
PUBLISHED_S = 60
"""The mark of a complete publication lives this long; it is gone early where Redis lost its data."""

CHUNK = 1_000

WEEK_FIRST_H = 0.01
"""By so much a week must end before the session's limit does, for its agent to be told."""


def gate_publish(worker: Worker) -> None:
    """Write the worker's gate entry after the commit. The parked poll of one that lost its say ends at once."""
    worker_id = worker.pk
    transaction.on_commit(lambda: _gate_write(worker_id), robust=True)


def orders_publish(worker_ids: Iterable[str], *, ring: bool = True) -> None:
    """Write these workers' standing orders after the commit, and have those whose orders changed ask for them.

    ring False: their next posts are soon enough. What a post itself changes is no reason for another.
    """
    ids = sorted(set(worker_ids))
    if ids:
        transaction.on_commit(lambda: _orders_changed(ids, ring=ring), robust=True)


def orders_of(worker_ids: Collection[str] | None = None) -> dict[str, list[wire.Order]]:
    """What stands ordered for these workers (for all: None), from the rows; workers without orders are left out.

    drain: the worker drains. saved: a snapshot of its workspace is verified. cancel: a dispatch that somebody cancelled,
    or that was taken back while it ran. interrogate: a question by doorbell that its next post answers. end_by: its
    account's week is used up before its session's limit.
    """
    orders: dict[str, list[wire.Order]] = {}
    workers = Worker.objects.filter(state=WorkerState.DRAINING)
    saved = Worker.objects.exclude(saved_ref="")
    dispatches = Dispatch.objects.filter(epoch=F("worker__epoch"))
    questions = Interrogation.objects.filter(
        way=Interrogation.Way.DOORBELL, open_until__isnull=False, epoch=F("worker__epoch")
    )
    if worker_ids is not None:
        workers = workers.filter(pk__in=worker_ids)
        questions = questions.filter(worker__in=worker_ids)
        saved = saved.filter(pk__in=worker_ids)
        dispatches = dispatches.filter(worker__in=worker_ids)
    for worker_id in workers.values_list("pk", flat=True):
        orders.setdefault(worker_id, []).append(wire.Order(kind="drain"))
    for worker_id, ref in saved.values_list("pk", "saved_ref"):
        orders.setdefault(worker_id, []).append(wire.Order(kind="saved", id=ref))
    for stopping in (
        dispatches.filter(state=DispatchState.CLAIMED, cancel_requested_at__isnull=False),
        dispatches.filter(**HAUNTING),
    ):
        for worker_id, dispatch_id in stopping.order_by("pk").values_list("worker_id", "pk"):
            orders.setdefault(worker_id, []).append(wire.Order(kind="cancel", id=dispatch_id))
    for question in questions:
        orders.setdefault(question.worker_id, []).append(wire.Order(kind="interrogate", id=question.order_id))
    for worker_id, end_h in _week_ends(worker_ids):
        orders.setdefault(worker_id, []).append(wire.Order(kind="end_by", id=f"{end_h:.3f}"))
    return orders


def _week_ends(worker_ids: Collection[str] | None) -> Iterable[tuple[str, float]]:
    """Workers whose account's week ends their session, with the hours of its runtime at which it does."""
    sessions = Session.objects.filter(
        epoch=F("worker__epoch"),
        worker__state__in=LISTENING,
        worker__ends_at__isnull=False,
        worker__account__weekly_limit_h__isnull=False,
        worker__account__session_shutdown_h__isnull=False,
    )
    if worker_ids is not None:
        sessions = sessions.filter(worker__in=worker_ids)
    columns = ("worker_id", "worker__ends_at", "worker__account__session_shutdown_h", "runtime_s", "started_at",
               "last_post_at")  # fmt: skip
    for (
        worker_id,
        ends_at,
        shutdown_h,
        runtime_s,
        started_at,
        last_post_at,
    ) in sessions.order_by().values_list(*columns):
        end_h = (runtime_s + (ends_at - (last_post_at or started_at)).total_seconds()) / 3600
        if end_h < shutdown_h - WEEK_FIRST_H:
            yield worker_id, max(0.0, end_h)


def publish_all(*, now: datetime) -> bool:
    """Write the whole gate and all orders, if the mark of the last publication is gone. True where it did so.

    Left out are workers that have been offline for long: their next token puts them back.
    """
    try:
        client = broker.client()
        if client.exists(PUBLISHED):
            return False
        recent = Q(state_since__gt=now - REVOKED_SHOWN)
        rows = list(
            Worker.objects.filter(recent | Q(state__in=[*LISTENING, WorkerState.LOST])).values_list(
                "pk", "secret_sha256", "epoch", "check_interval_s"
            )
        )
        for chunk in _chunks(rows):
            client.hset(keys.GATE, mapping={row[0]: _gate_entry(*row[1:]) for row in chunk})
        if settings.AGENT_TRANSPORT == "redis":
            for worker_id, secret_sha256, epoch, _ in rows:
                if secret_sha256:
                    direct_redis.grant(worker_id, epoch)
        _orders_write(client, before=client.hgetall(keys.ORDERS), orders=orders_of())
        client.set(PUBLISHED, now.isoformat(), ex=PUBLISHED_S)
    except redis.RedisError as error:
        log.warning("broker away, gate and orders wait for the next tick: %s", error)
        return False
    log.info("published gate and orders of %d workers", len(rows))
    return True


def _gate_entry(secret_sha256: str, epoch: int, check_interval_s: float) -> str:
    # Revoked, retired and never enrolled workers have no secret: none of them has a say.
    shown = epoch if secret_sha256 else REVOKED_EPOCH
    return json.dumps({"epoch": shown, "next_in_s": check_interval_s})


def _gate_write(worker_id: str) -> None:
    # Read again: of two commits whose callbacks cross, the later one's truth is written by both.
    row = (
        Worker.objects.filter(pk=worker_id).values_list("secret_sha256", "epoch", "check_interval_s").first()
    )
    if row is None:
        return
    broker.tell("HSET", keys.GATE, worker_id, _gate_entry(*row))
    if not row[0]:
        broker.tell("PUBLISH", keys.REVOKED, worker_id)
        direct_redis.withdraw(worker_id)


def _orders_changed(worker_ids: list[str], *, ring: bool) -> None:
    changed: list[str] = []
    try:
        client = broker.client()
        for chunk in _chunks(worker_ids):
            texts = zip(chunk, client.hmget(keys.ORDERS, chunk), strict=True)
            before = {worker_id: text for worker_id, text in texts if text}
            changed += _orders_write(client, before=before, orders=orders_of(chunk))
    except redis.RedisError as error:
        log.warning("broker away, orders of %d workers wait for the next tick: %s", len(worker_ids), error)
        return
    for worker_id in changed if ring else ():
        ring_worker(worker_id, wire.RING_STATUS)


def _orders_write(
    client: redis.Redis, *, before: Mapping[str, str], orders: Mapping[str, list[wire.Order]]
) -> list[str]:
    """Make Redis say `orders` instead of `before`; returns the workers for whom that is another thing."""
    texts = {worker_id: json.dumps([vars(order) for order in orders[worker_id]]) for worker_id in orders}
    changed = {worker_id: text for worker_id, text in texts.items() if text != before.get(worker_id)}
    gone = [worker_id for worker_id in before if worker_id not in texts]
    if changed:
        client.hset(keys.ORDERS, mapping=changed)
    if gone:
        client.hdel(keys.ORDERS, *gone)
    return [*changed, *gone]


def _chunks(rows: list[T]) -> Iterable[list[T]]:
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
