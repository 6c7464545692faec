"""Doorbells: after the commit, to whom they are meant, and at no cost where the broker is away."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from celery import current_app
from django.db import transaction
from django.utils import timezone

from agent import wire
from core import broker
from core.chains import TASK
from core.doorbell import ring, ring_worker
from gateway import keys

OnCommit = Callable[..., Any]
pytestmark = pytest.mark.django_db


def queued(key: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in broker.client().lrange(key, 0, -1)]


def arguments(message: dict[str, Any]) -> list[Any]:
    return json.loads(base64.b64decode(message["body"]))[0]


def test_a_bell_rings_after_the_commit_with_ids_only(
    valkey: Any, django_capture_on_commit_callbacks: OnCommit
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        ring("pool.dispatch_tick", "j_1")
        assert queued("tick") == []
    (message,) = queued("tick")
    assert (message["headers"]["task"], arguments(message)) == ("pool.dispatch_tick", ["j_1"])


def test_a_rolled_back_change_rings_nothing(valkey: Any, transactional_db: None) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        ring("pool.dispatch_tick", "j_1")
        raise RuntimeError
    assert queued("tick") == []


def test_chains_have_a_queue_and_a_time_limit_of_their_own(
    valkey: Any, django_capture_on_commit_callbacks: OnCommit
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        ring(TASK, "c_1", time_limit_s=50)
    (message,) = queued("chains")
    assert message["headers"]["timelimit"] == [50, 45]
    assert queued("tick") == []


def test_what_asks_a_provider_is_not_in_the_way_of_the_ticks_and_does_not_pile_up(
    valkey: Any, django_capture_on_commit_callbacks: OnCommit
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        ring("hibernation.account_reconcile", "acc_1", void_after_s=15)
    (message,) = queued("chains")
    void_at = datetime.fromisoformat(message["headers"]["expires"])
    assert timedelta(seconds=5) < void_at - timezone.now() <= timedelta(seconds=15)
    assert queued("tick") == []


def test_a_workers_bell_goes_into_its_own_list_and_wakes_its_poll(
    valkey: Any, django_capture_on_commit_callbacks: OnCommit
) -> None:
    listener = broker.client().pubsub(ignore_subscribe_messages=True)
    listener.subscribe(keys.RINGS)
    listener.get_message(timeout=5)
    with django_capture_on_commit_callbacks(execute=True):
        ring_worker("w_1", "d_1")
    (message,) = queued(wire.queue_key("w_1"))
    assert (message["headers"]["task"], arguments(message)) == (wire.TASK_RING, ["d_1"])
    assert listener.get_message(timeout=5)["data"] == "w_1"
    listener.close()
    assert not [key for key in broker.client().keys("_kombu*") if "w_1" in key]


def test_a_thousand_workers_do_not_grow_the_senders_memory(
    valkey: Any, django_capture_on_commit_callbacks: OnCommit
) -> None:
    before = set(current_app.amqp.queues)
    with django_capture_on_commit_callbacks(execute=True):
        for number in range(50):
            ring_worker(f"w_{number}", "d_1")
    assert set(current_app.amqp.queues) == before


def test_a_broker_that_is_away_costs_a_log_line_and_no_time(
    valkey: Any, django_capture_on_commit_callbacks: OnCommit, caplog: pytest.LogCaptureFixture
) -> None:
    valkey.kill()
    started = time.monotonic()
    with caplog.at_level(logging.WARNING), django_capture_on_commit_callbacks(execute=True):
        ring("pool.dispatch_tick")
        ring_worker("w_1", "d_1")
    assert time.monotonic() - started < 2
    assert len([one for one in caplog.records if "waits for its tick" in one.getMessage()]) == 2
    assert broker.tell("PUBLISH", "x", "y") is False


def test_a_broker_that_is_back_is_rung_again(
    valkey: Any, django_capture_on_commit_callbacks: OnCommit
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        ring("pool.dispatch_tick")
    valkey.kill()
    valkey.restart()
    with django_capture_on_commit_callbacks(execute=True):
        ring("pool.dispatch_tick")
        ring_worker("w_1", "d_1")
    assert len(queued("tick")) == 1
    assert len(queued(wire.queue_key("w_1"))) == 1
