"""Direct Redis as a switch: each worker's user may take from its own list and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from agent import wire
from core import broker
from core.reasons import because
from pool.models import Worker
from pool.services import direct_redis, publish
from pool.services.workers import worker_revoke
from tests.pool.conftest import NOON

Enrol = Callable[..., Worker]


@pytest.fixture
def direct(valkey: Any, settings: Any) -> Iterator[None]:
    settings.AGENT_TRANSPORT = "redis"
    yield
    client = redis.Redis.from_url(valkey.url, decode_responses=True)
    for name in client.acl_users():
        if name != "default":
            client.acl_deluser(name)
    client.close()


def connect(valkey: Any, worker: Worker) -> redis.Redis:
    """As the agent would, but over the test server's socket."""
    password = direct_redis._password(worker.pk, worker.epoch)
    return redis.Redis(
        unix_socket_path=str(valkey.socket_path), username=f"gpu_{worker.pk}", password=password
    )


def test_https_is_the_rule(enrol: Enrol) -> None:
    worker = enrol()
    assert direct_redis.transport(worker.pk, worker.epoch) == {"kind": "https"}


def test_a_socket_is_no_address_for_another_machine(direct: None, enrol: Enrol) -> None:
    assert direct_redis.transport(enrol().pk, 1) == {"kind": "https"}


def test_the_address_carries_the_workers_own_user(direct: None, settings: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(direct_redis, "grant", lambda *_: None)
    settings.REDIS_URL = "rediss://admin:hush@10.1.2.3:6380/0"
    got = direct_redis.transport("w_1", 1)
    assert got["kind"] == "redis"
    assert got["url"].startswith("rediss://gpu_w_1:") and got["url"].endswith("@10.1.2.3:6380/0")
    assert "hush" not in got["url"] and "admin" not in got["url"]


def test_a_workers_user_takes_from_its_own_list_and_nothing_else(
    direct: None, valkey: Any, enrol: Enrol
) -> None:
    mine, other = enrol("a"), enrol("b")
    for worker in (mine, other):
        direct_redis.grant(worker.pk, worker.epoch)
        broker.client().lpush(wire.queue_key(worker.pk), "bell")
    client = connect(valkey, mine)
    assert client.brpop([wire.queue_key(mine.pk)], timeout=1)[1] == b"bell"
    attempts: list[Callable[[], object]] = [
        lambda: client.brpop([wire.queue_key(other.pk)], timeout=1),
        lambda: client.lpush(wire.queue_key(mine.pk), "x"),
        lambda: client.keys("*"),
        lambda: client.publish("x", "y"),
        lambda: client.config_get("*"),
        lambda: client.flushall(),
        lambda: client.eval("return 1", 0),
    ]
    for attempt in attempts:
        with pytest.raises(redis.exceptions.NoPermissionError):
            attempt()
    assert broker.client().llen(wire.queue_key(other.pk)) == 1
    client.close()


def test_revoking_takes_the_user_away_and_a_tick_gives_lost_ones_back(
    direct: None, valkey: Any, enrol: Enrol, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    kept, revoked = enrol("a"), enrol("b")
    for worker in (kept, revoked):
        direct_redis.grant(worker.pk, worker.epoch)
    with django_capture_on_commit_callbacks(execute=True):
        worker_revoke(revoked, reason=because("operator", note="x"), now=NOON)
    assert set(broker.client().acl_users()) == {"default", f"gpu_{kept.pk}"}
    valkey.kill()
    valkey.restart()
    assert publish.publish_all(now=NOON)
    assert set(broker.client().acl_users()) == {"default", f"gpu_{kept.pk}"}
    client = connect(valkey, kept)
    assert client.ping()
    client.close()


def test_a_new_session_ends_the_connections_of_the_one_before(
    direct: None, valkey: Any, enrol: Enrol, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    """An old box that stays connected would take the new one's bells, although it may answer none of them."""
    before = enrol("a")
    direct_redis.grant(before.pk, before.epoch)
    client = connect(valkey, before)
    assert client.ping()
    with django_capture_on_commit_callbacks(execute=True):
        now = enrol("a")
    direct_redis.grant(now.pk, now.epoch)
    with pytest.raises((redis.exceptions.ConnectionError, redis.exceptions.AuthenticationError)):
        client.ping()
    client.close()
