"""Silence, leases, unanswered bells, and our own absence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User

from agent import wire
from core import broker
from core.agents import AgentIdentity
from core.models import TickRun
from core.reasons import because
from gateway import keys
from pool.models import Dispatch, Worker
from pool.services import publish
from pool.services.dispatches import dispatch_ask, dispatch_cancel
from pool.services.intake import intake_drain
from pool.services.job_spec import JobSpec
from pool.services.jobs import jobs_dispatch
from pool.services.liveness import GATEWAY, INTAKE, TICK, workers_check
from pool.services.reports import dispatch_claim, dispatch_finish
from pool.services.submission import job_submit
from pool.services.workers import overdue_at, worker_drain, worker_revoke, worker_undrain
from pool.states import DispatchState, JobState, WorkerState
from tests.pool.conftest import NOON

pytestmark = pytest.mark.usefixtures("valkey", "gateway")


@pytest.fixture
def gateway(valkey: Any) -> Iterator[Any]:
    """What shows that a gateway is there: its subscription."""
    client = redis.Redis.from_url(valkey.url)
    subscription = client.pubsub()
    subscription.subscribe(keys.RINGS)
    subscription.get_message(timeout=5)
    yield subscription
    subscription.close()
    client.close()


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.fixture
def running() -> Callable[[float], int]:
    """running(90): the tick as it is at 12:01:30, having run every five seconds for an hour."""

    def check(seconds: float) -> int:
        for name in (TICK, GATEWAY):
            TickRun.objects.update_or_create(
                name=name,
                defaults={"started_at": at(seconds - 5), "resumed_at": NOON - timedelta(hours=1)},
            )
        return workers_check(now=at(seconds))

    return check


@pytest.fixture
def seen(enrol: Callable[..., Worker], stream: Callable[..., str]) -> Worker:
    """A worker that posts every 30 s and was heard at 12:00:00."""
    worker = enrol("w")
    stream(worker, at=NOON)
    intake_drain(now=NOON)
    worker.refresh_from_db()
    return worker


def state(worker: Worker) -> str:
    worker.refresh_from_db()
    return worker.state


def test_posts_are_overdue_after_their_interval_and_some_grace() -> None:
    assert overdue_at(NOON, check_interval_s=30) == at(30 * 1.25 + 2)
    assert overdue_at(NOON, check_interval_s=30, missing=2) == at(30 * 2.25 + 2)


def test_one_missing_post_is_suspect_two_are_lost(seen: Worker, running: Callable[[float], int]) -> None:
    running(38)
    assert state(seen) == WorkerState.ONLINE
    running(40)
    assert state(seen) == WorkerState.SUSPECT
    assert seen.reason == "no status post for 40 s; it posts every 30 s"
    running(69)
    assert state(seen) == WorkerState.SUSPECT
    running(70)
    assert state(seen) == WorkerState.LOST


def test_a_post_in_time_keeps_it_and_one_too_late_brings_it_back(
    seen: Worker, running: Callable[[float], int], stream: Callable[..., str]
) -> None:
    running(40)
    stream(seen, at=at(41))
    intake_drain(now=at(41))
    assert state(seen) == WorkerState.ONLINE
    running(70)
    assert state(seen) == WorkerState.ONLINE
    running(200)
    assert state(seen) == WorkerState.LOST
    stream(seen, at=at(300))
    intake_drain(now=at(300))
    assert state(seen) == WorkerState.ONLINE


def test_a_lost_workers_job_is_queued_within_two_missed_beats(
    seen: Worker, running: Callable[[float], int], alice: User
) -> None:
    job = job_submit(owner=alice, spec=JobSpec(command=["true"]), now=NOON)
    jobs_dispatch(now=NOON)
    row = Dispatch.objects.get()
    dispatch_claim(identity=AgentIdentity(worker_id=seen.pk, epoch=1), dispatch_id=row.pk, now=NOON)
    running(75)
    job.refresh_from_db()
    assert job.state == JobState.QUEUED
    assert job.reason == "attempt 1 ended early: its worker is lost"


def test_a_draining_worker_that_goes_silent_is_lost_as_well(
    seen: Worker, running: Callable[[float], int]
) -> None:
    worker_drain(seen, reason=because("operator", note="x"), now=NOON)
    running(40)
    assert state(seen) == WorkerState.DRAINING
    running(75)
    assert state(seen) == WorkerState.LOST


def heard(worker: Worker, stream: Callable[..., str], seconds: float) -> str:
    """Its state after a post of that moment."""
    stream(worker, at=at(seconds))
    intake_drain(now=at(seconds))
    return state(worker)


def test_an_order_to_drain_outlives_a_silence(
    seen: Worker, running: Callable[[float], int], stream: Callable[..., str], alice: User
) -> None:
    worker_drain(seen, reason=because("operator", note="x"), now=NOON)
    running(75)
    assert heard(seen, stream, 80) == WorkerState.DRAINING
    assert publish.orders_of([seen.pk]) == {seen.pk: [wire.Order(kind="drain")]}
    job_submit(owner=alice, spec=JobSpec(command=["true"]), now=NOON)
    assert jobs_dispatch(now=at(81)) == 0
    worker_undrain(seen, now=at(82))
    assert state(seen) == WorkerState.ONLINE
    assert jobs_dispatch(now=at(83)) == 1


def test_a_lost_worker_is_drained_and_taken_back_by_its_next_post(
    seen: Worker, running: Callable[[float], int], stream: Callable[..., str]
) -> None:
    running(75)
    assert state(seen) == WorkerState.LOST
    worker_drain(seen, reason=because("operator", note="x"), now=at(76))
    assert heard(seen, stream, 80) == WorkerState.DRAINING
    running(160)
    worker_undrain(seen, now=at(161))
    assert heard(seen, stream, 165) == WorkerState.ONLINE


def test_our_own_absence_loses_nobody(seen: Worker, stream: Callable[..., str]) -> None:
    """The tick was away for an hour, and with it everything that could have heard a post."""
    TickRun.objects.create(name=TICK, started_at=NOON, resumed_at=NOON - timedelta(days=1))
    back = 3600
    for second in range(0, 35, 5):
        workers_check(now=at(back + second))
        assert state(seen) == WorkerState.ONLINE
    workers_check(now=at(back + 40))
    assert state(seen) == WorkerState.SUSPECT
    for second in range(45, 75, 5):
        workers_check(now=at(back + second))
    assert state(seen) == WorkerState.LOST


def test_a_gateway_that_is_away_loses_nobody(
    seen: Worker, running: Callable[[float], int], gateway: Any
) -> None:
    """The ticks run, but no agent can reach us: restarted, upgraded, or its machine rebooted."""
    gateway.unsubscribe()
    gateway.get_message(timeout=5)
    for seconds in (40, 100, 200):
        running(seconds)
        assert state(seen) == WorkerState.ONLINE
    gateway.subscribe(keys.RINGS)
    gateway.get_message(timeout=5)
    TickRun.objects.filter(name=GATEWAY).delete()
    for second in range(205, 240, 5):
        workers_check(now=at(second))
        assert state(seen) == WorkerState.ONLINE
    workers_check(now=at(246))
    assert state(seen) == WorkerState.SUSPECT


def test_posts_that_nobody_stores_are_no_silence(seen: Worker, running: Callable[[float], int]) -> None:
    """Agents post, the stream grows, and the tick that drains it fails at each run."""
    intake = TickRun.objects.create(name=INTAKE, started_at=NOON, resumed_at=NOON - timedelta(hours=1))
    for finished_at in (None, at(0), at(60)):
        TickRun.objects.filter(pk=intake.pk).update(started_at=at(85), finished_at=finished_at)
        running(90)
        assert state(seen) == WorkerState.ONLINE
    TickRun.objects.filter(pk=intake.pk).update(started_at=at(195), finished_at=at(195))
    running(200)
    assert state(seen) == WorkerState.LOST


def test_a_broker_that_is_away_loses_nobody_and_stops_nothing(
    seen: Worker, running: Callable[[float], int], valkey: Any
) -> None:
    row = ask(seen)
    Worker.objects.filter(pk=seen.pk).update(epoch=2)
    valkey.kill()
    running(75)
    assert state(seen) == WorkerState.ONLINE
    assert Dispatch.objects.get(pk=row.pk).state == DispatchState.WITHDRAWN


def test_our_own_absence_costs_no_lease(seen: Worker, stream: Callable[..., str]) -> None:
    row = claimed(seen)
    TickRun.objects.create(name=TICK, started_at=NOON, resumed_at=NOON - timedelta(days=1))
    workers_check(now=at(3600))
    assert Dispatch.objects.get(pk=row.pk).state == DispatchState.CLAIMED
    stream(seen, at=at(3605), jobs=[row.pk])
    intake_drain(now=at(3605))
    for second in range(3605, 3690, 5):
        workers_check(now=at(second))
        stream(seen, at=at(second), jobs=[row.pk])
        intake_drain(now=at(second))
    assert Dispatch.objects.get(pk=row.pk).state == DispatchState.CLAIMED


def ask(worker: Worker, key: str = "k") -> Dispatch:
    return dispatch_ask(worker=worker, kind="command", ref="", key=key, work={"script": "true"}, now=NOON)


def claimed(worker: Worker) -> Dispatch:
    row = ask(worker)
    dispatch_claim(identity=AgentIdentity(worker_id=worker.pk, epoch=1), dispatch_id=row.pk, now=NOON)
    return Dispatch.objects.get(pk=row.pk)


def test_a_lease_that_ran_out_is_taken_back_although_its_worker_still_posts(
    seen: Worker, running: Callable[[float], int], stream: Callable[..., str]
) -> None:
    row = claimed(seen)
    for second in (30, 60, 90):
        stream(seen, at=at(second), jobs=[])
        intake_drain(now=at(second))
    running(89)
    assert Dispatch.objects.get(pk=row.pk).state == DispatchState.CLAIMED
    running(91)
    row.refresh_from_db()
    assert (row.state, row.reason) == ("withdrawn", "its worker has not mentioned it for 90 s")


def queue(worker: Worker) -> int:
    return int(broker.client().llen(wire.queue_key(worker.pk)))


def test_an_unanswered_bell_is_rung_again_ever_more_rarely(
    seen: Worker, running: Callable[[float], int], django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    ask(seen)
    rings = []
    for second in range(0, 35, 1):
        before = queue(seen)
        with django_capture_on_commit_callbacks(execute=True):
            running(second)
        if queue(seen) > before:
            rings.append(second)
    assert rings == [6, 12, 24]


def test_nobody_answers_for_ten_minutes_and_it_is_given_elsewhere(
    seen: Worker, running: Callable[[float], int], stream: Callable[..., str]
) -> None:
    row = ask(seen)
    stream(seen, at=at(595))
    intake_drain(now=at(595))
    running(599)
    assert Dispatch.objects.get(pk=row.pk).state == DispatchState.RUNG
    running(601)
    row.refresh_from_db()
    assert (row.state, row.reason) == (
        "withdrawn",
        "the worker did not answer its bell for 10 minutes",
    )


def test_a_dispatch_of_a_worker_that_is_gone_is_taken_back(
    seen: Worker, running: Callable[[float], int]
) -> None:
    row = ask(seen)
    Worker.objects.filter(pk=seen.pk).update(state=WorkerState.OFFLINE)
    running(5)
    assert Dispatch.objects.get(pk=row.pk).state == DispatchState.WITHDRAWN


def test_a_dispatch_of_an_older_epoch_is_taken_back(seen: Worker, running: Callable[[float], int]) -> None:
    row = ask(seen)
    Worker.objects.filter(pk=seen.pk).update(epoch=2)
    running(5)
    assert Dispatch.objects.get(pk=row.pk).state == DispatchState.WITHDRAWN


def test_a_drain_that_never_ends_is_ended(seen: Worker, running: Callable[[float], int]) -> None:
    worker_drain(seen, reason=because("operator", note="x"), now=NOON)
    day = 24 * 3600
    Worker.objects.filter(pk=seen.pk).update(due_at=at(2 * day), last_seen_at=at(day))
    running(day + 1)
    assert state(seen) == WorkerState.OFFLINE
    assert seen.reason == "it drained for longer than 1440 minutes"


def test_a_drain_lasts_as_long_as_what_the_worker_had_begun(
    seen: Worker, running: Callable[[float], int], alice: User
) -> None:
    job = job_submit(owner=alice, spec=JobSpec(command=["true"]), now=NOON)
    jobs_dispatch(now=NOON)
    row = Dispatch.objects.get()
    dispatch_claim(identity=AgentIdentity(worker_id=seen.pk, epoch=1), dispatch_id=row.pk, now=NOON)
    worker_drain(seen, reason=because("operator", note="x"), now=NOON)
    day = 24 * 3600
    for seconds in (day + 1, 3 * day):
        Worker.objects.filter(pk=seen.pk).update(due_at=at(9 * day), last_seen_at=at(seconds))
        Dispatch.objects.update(lease_until=at(9 * day))
        running(seconds)
        job.refresh_from_db()
        assert (state(seen), job.state) == (WorkerState.DRAINING, JobState.RUNNING)
    finish = wire.FinishPost(fence=1, outcome="succeeded", exit_code=0)
    identity = AgentIdentity(worker_id=seen.pk, epoch=1)
    dispatch_finish(identity=identity, dispatch_id=row.pk, post=finish, now=at(3 * day))
    running(4 * day + 1)
    assert state(seen) == WorkerState.OFFLINE


def test_a_drain_that_was_ended_still_stands(
    seen: Worker, running: Callable[[float], int], stream: Callable[..., str]
) -> None:
    worker_drain(seen, reason=because("operator", note="x"), now=NOON)
    day = 24 * 3600
    Worker.objects.filter(pk=seen.pk).update(due_at=at(2 * day), last_seen_at=at(day))
    running(day + 1)
    assert heard(seen, stream, day + 30) == WorkerState.DRAINING


def test_a_row_that_fails_does_not_keep_the_others(
    enrol: Callable[..., Worker], running: Callable[[float], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pool.services import liveness

    bad, good = enrol("bad"), enrol("good")
    Worker.objects.update(due_at=NOON)
    silent = liveness.workers_silent

    def fail(ids: list[str], **kwargs: Any) -> int:
        if bad.pk in ids:
            raise RuntimeError("a fault of ours")
        return silent(ids, **kwargs)

    monkeypatch.setattr(liveness, "workers_silent", fail)
    running(100)
    assert (state(bad), state(good)) == (WorkerState.ONLINE, WorkerState.LOST)


# -- what the gateway reads ---------------------------------------------------------------------------


def gate() -> dict[str, Any]:
    return {key: json.loads(text) for key, text in broker.client().hgetall(keys.GATE).items()}


def orders() -> dict[str, Any]:
    return {key: json.loads(text) for key, text in broker.client().hgetall(keys.ORDERS).items()}


def test_gate_and_orders_come_back_after_the_broker_lost_them(
    enrol: Callable[..., Worker], running: Callable[[float], int]
) -> None:
    online, draining, revoked = enrol("a"), enrol("b"), enrol("c")
    worker_drain(draining, reason=because("operator", note="x"), now=NOON)
    worker_revoke(revoked, reason=because("operator", note="x"), now=NOON)
    row = claimed(online)
    dispatch_cancel(row, reason=because("not_wanted", why="test"), now=NOON)
    running(5)
    assert gate() == {
        online.pk: {"epoch": 1, "next_in_s": 30.0},
        draining.pk: {"epoch": 1, "next_in_s": 30.0},
        revoked.pk: {"epoch": -1, "next_in_s": 30.0},
    }
    assert orders() == {
        online.pk: [{"kind": "cancel", "id": row.pk}],
        draining.pk: [{"kind": "drain", "id": ""}],
    }
    broker.client().flushall()
    running(10)
    assert set(gate()) == {online.pk, draining.pk, revoked.pk}
    assert set(orders()) == {online.pk, draining.pk}


def test_what_nobody_orders_any_more_goes_from_the_orders(
    seen: Worker, running: Callable[[float], int]
) -> None:
    broker.client().hset(keys.ORDERS, mapping={seen.pk: '[{"kind":"drain","id":""}]', "w_gone": "[]"})
    running(5)
    assert orders() == {}


def test_a_complete_publication_is_not_made_at_every_tick(seen: Worker) -> None:
    assert publish.publish_all(now=NOON) is True
    assert publish.publish_all(now=NOON) is False


def test_orders_are_written_after_the_commit_and_their_worker_is_rung(
    seen: Worker, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        worker_drain(seen, reason=because("operator", note="x"), now=NOON)
        assert orders() == {}
    assert orders() == {seen.pk: [{"kind": "drain", "id": ""}]}
    assert queue(seen) == 1
    with django_capture_on_commit_callbacks(execute=True):
        worker_undrain(seen, now=NOON)
    assert orders() == {}
    assert queue(seen) == 2


def test_an_order_to_cancel_goes_with_the_dispatch_that_it_ended(
    seen: Worker, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        row = claimed(seen)
        dispatch_cancel(row, reason=because("not_wanted", why="test"), now=NOON)
    assert orders() == {seen.pk: [{"kind": "cancel", "id": row.pk}]}
    with django_capture_on_commit_callbacks(execute=True):
        dispatch_finish(
            identity=AgentIdentity(worker_id=seen.pk, epoch=1),
            dispatch_id=row.pk,
            post=wire.FinishPost(fence=1, outcome="cancelled"),
            now=NOON,
        )
    assert orders() == {}
