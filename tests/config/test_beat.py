"""The lease of the beat: one sends, and when it dies another does."""

import json
import signal
import sqlite3
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from celery.beat import SchedulingError
from django.conf import settings
from django.utils import timezone

from config.beat import LEASE, LeasedScheduler, lease_release, lease_take
from config.celery import app
from config.schedule import TICKS, schedule_upsert
from core import broker
from core.models import Lease
from tests.config.processes import django_environ, running, wait_for


def sent() -> Counter[str]:
    """How often each tick lies in the two queues."""
    messages = [message for queue in ("tick", "chains") for message in broker.client().lrange(queue, 0, -1)]
    return Counter(json.loads(message)["headers"]["task"] for message in messages)


@pytest.fixture
def scheduler(transactional_db, valkey):
    """scheduler() → a beat's scheduler in this process."""
    schedule_upsert()
    made: list[LeasedScheduler] = []

    def make() -> LeasedScheduler:
        made.append(LeasedScheduler(app=app))
        return made[-1]

    yield make
    for beat in made:
        beat._finalize.cancel()  # it would write its run times when this process ends, into a database that is gone


def test_lease_is_one_holders_until_it_ends(db):
    assert lease_take(holder="a", lease_s=60)
    assert not lease_take(holder="b", lease_s=60)
    assert lease_take(holder="a", lease_s=60)
    Lease.objects.update(until=timezone.now() - timedelta(seconds=1))
    assert lease_take(holder="b", lease_s=60)
    assert not lease_take(holder="a", lease_s=60)


def test_lease_lasts_as_long_as_it_was_taken_for(db):
    lease_take(holder="a", lease_s=60)
    lasts = Lease.objects.get(name=LEASE).until - datetime.now(UTC)
    assert timedelta(seconds=55) < lasts < timedelta(seconds=65)


def test_released_lease_is_free_at_once_and_anothers_is_left_alone(db):
    lease_take(holder="a", lease_s=60)
    lease_release(holder="b")
    assert not lease_take(holder="b", lease_s=60)
    lease_release(holder="a")
    assert lease_take(holder="b", lease_s=60)


def test_only_the_leader_sends(scheduler):
    leader, other = scheduler(), scheduler()
    for beat in (leader, other) * 20:
        beat.tick()
    assert sent()["core.chains_tick"] == 1
    leader.close()
    assert other.tick() is not None
    assert other.leading


def test_leader_that_slept_through_its_lease_asks_before_it_sends(scheduler):
    sleeper, other = scheduler(), scheduler()
    sleeper.tick()
    Lease.objects.update(until=timezone.now() - timedelta(seconds=1))
    sleeper._renewed_s = time.monotonic() - settings.BEAT_LEASE_S
    other.tick()
    before = sent()
    for _ in range(20):
        sleeper.tick()
    assert sent() == before
    assert not sleeper.leading


def test_told_to_end_in_the_middle_of_a_message_it_ends_and_leaves_the_lease(scheduler, monkeypatch):
    beat = scheduler()

    def interrupted(*_args, **_kwargs):
        beat.close()  # as Celery's signal handler does, which raises SystemExit after it
        raise SchedulingError("I/O operation on closed file")

    monkeypatch.setattr(beat, "apply_async", interrupted)
    with pytest.raises(SystemExit):
        for _ in range(len(TICKS)):
            beat.tick()
    assert lease_take(holder="next", lease_s=60)


def test_broker_that_is_away_costs_ticks_and_not_the_beat(scheduler, valkey):
    beat = scheduler()
    valkey.kill()
    assert beat.tick() == 1.0
    valkey.restart()
    for _ in range(20):
        beat.tick()
    assert sent() == {tick.task: 1 for tick in TICKS}


def test_message_of_a_tick_is_void_soon_after_the_next_one(scheduler):
    beat = scheduler()
    for _ in range(20):
        beat.tick()
    message = next(
        message for message in map(json.loads, broker.client().lrange("tick", 0, -1))
        if message["headers"]["task"] == "pool.intake_tick"
    )  # fmt: skip
    expires = datetime.fromisoformat(message["headers"]["expires"])
    assert timedelta(0) < expires - datetime.now(UTC) < timedelta(seconds=6)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_beats_send_each_tick_once_and_the_second_takes_over_from_a_killed_one(tmp_path, valkey):
    env = django_environ(tmp_path, DORMOUSE_BEAT_LEASE_S="6", DATABASE_URL="")
    with running(tmp_path / "prepare.log", env, "manage.py", "migrate", "-v0") as migrate:
        assert migrate.wait(60) == 0, (tmp_path / "prepare.log").read_text()
    beat = ("-m", "celery", "-A", "config.celery", "beat", "--pidfile=")
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    with running(first, env, *beat) as leader:
        wait_for(lambda: b"leads" in first.read_bytes(), "the first beat leads")
        with running(second, env, *beat) as other:
            wait_for(lambda: sent()["pool.intake_tick"] >= 8, "eight ticks of one second")
            assert b"leads" not in second.read_bytes()
            ticks = sent()
            # Every 1, 2 and 5 s in the same time: a doubled one would stand out.
            assert ticks["pool.dispatch_tick"] <= ticks["pool.intake_tick"] / 2 + 1
            assert ticks["core.chains_tick"] <= ticks["pool.intake_tick"] / 5 + 1
            leader.send_signal(signal.SIGKILL)
            leader.wait()
            # The lease and one look are eight seconds; a machine that does ten other things may take a multiple.
            wait_for(lambda: b"leads" in second.read_bytes(), "the second beat leads")
            before = sent()["pool.intake_tick"]
            wait_for(lambda: sent()["pool.intake_tick"] >= before + 2, "ticks go on")
            other.terminate()
            assert other.wait(30) == 0
    with sqlite3.connect(tmp_path / "dormouse.sqlite3") as database:
        assert database.execute("SELECT holder FROM core_lease").fetchall() == []  # a clean stop gives it up
    database.close()
