"""A network that fails takes thousands of workers with it: all of them are lost, and their jobs queued, within two beats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from core.models import Event, TickRun
from gateway import keys
from pool import signals
from pool.models import Account, Dispatch, Job, Worker
from pool.services import liveness, losing
from pool.services.liveness import GATEWAY, TICK, workers_check
from pool.services.losing import workers_silent
from pool.states import DispatchState, JobState, WorkerState
from tests.pool.conftest import NOON

pytestmark = pytest.mark.usefixtures("valkey", "gateway")

INTERVAL_S = 30.0
LONG_AGO = NOON - timedelta(hours=1)


@pytest.fixture
def gateway(valkey: Any) -> Iterator[Any]:
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
def crowd(account: Account, alice: User) -> Callable[..., None]:
    """crowd(10): so many workers that were heard at noon, each with a job that it has begun."""

    def make(count: int, *, prefix: str = "w", **of_job: Any) -> None:
        ids = [f"{prefix}_{number:05}" for number in range(count)]
        Worker.objects.bulk_create(
            Worker(id=pk, account=account, name=pk, epoch=1, state=WorkerState.ONLINE, state_since=LONG_AGO,
                   check_interval_s=INTERVAL_S, last_seen_at=NOON, due_at=at(39.5))
            for pk in ids
        )  # fmt: skip
        Job.objects.bulk_create(
            Job(id=f"j_{pk}", owner=alice, name=pk, command=["true"], state=JobState.RUNNING, state_since=LONG_AGO,
                attempt=1, started_at=LONG_AGO, **of_job)
            for pk in ids
        )  # fmt: skip
        Dispatch.objects.bulk_create(
            Dispatch(id=f"d_{pk}", worker_id=pk, epoch=1, kind="job", job_id=f"j_{pk}", number=1, fence=1,
                     state=DispatchState.CLAIMED, state_since=LONG_AGO, claimed_at=LONG_AGO, lease_until=at(1000))
            for pk in ids
        )  # fmt: skip

    return make


def run(seconds: float) -> int:
    """The tick as it is then, having run every five seconds for an hour."""
    for name in (TICK, GATEWAY):
        TickRun.objects.update_or_create(
            name=name, defaults={"started_at": at(seconds - 5), "resumed_at": LONG_AGO}
        )
    return workers_check(now=at(seconds))


def test_all_are_lost_and_their_jobs_queued_by_one_run_of_the_tick(
    crowd: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "SILENT_AT_ONCE", 50)
    monkeypatch.setattr(liveness, "AT_ONCE", 10)
    crowd(120)
    run(40)
    assert set(Worker.objects.values_list("state", flat=True)) == {WorkerState.SUSPECT}
    run(70)
    assert set(Worker.objects.values_list("state", "due_at")) == {(WorkerState.LOST, None)}
    assert set(Dispatch.objects.values_list("state", flat=True)) == {DispatchState.WITHDRAWN}
    assert set(Job.objects.values_list("state", flat=True)) == {JobState.QUEUED}
    assert Job.objects.first().reason == "attempt 1 ended early: its worker is lost"
    assert Worker.objects.first().reason == "no status post for 70 s; it posts every 30 s"
    for subject in ("worker", "dispatch", "job"):
        codes = Event.objects.filter(subject_type=subject).values_list("code", flat=True)
        assert len(codes) == 120 * (2 if subject == "worker" else 1), codes


def test_the_number_of_statements_does_not_grow_with_the_number_of_workers(
    crowd: Callable[..., None],
) -> None:
    counts = []
    for count in (10, 200):
        crowd(count, prefix=f"w{count}")
        ids = [pk for pk in Worker.objects.values_list("pk", flat=True) if pk.startswith(f"w{count}_")]
        with CaptureQueriesContext(connection) as queries:
            assert workers_silent(ids, now=at(90), resumed_at=LONG_AGO) == count
        counts.append(len(queries))
    # SQLite takes so many events in a statement.
    assert counts[1] <= counts[0] + 4 * (200 // 70), counts


def test_whatever_is_more_than_a_return_to_the_queue_ends_as_it_would_alone(
    crowd: Callable[..., None], alice: User
) -> None:
    crowd(1, prefix="used", max_attempts=1)
    crowd(1, prefix="cancelled", cancel_requested_at=NOON, cancel_requested_by="alice")
    crowd(1, prefix="kept", checkpoint_every_s=60.0)
    crowd(1, prefix="plain")
    crowd(1, prefix="moved")
    Job.objects.filter(pk="j_moved_00000").update(attempt=2)
    heard: list[str] = []

    def listen(sender: Any, dispatch: Dispatch, **_: Any) -> None:
        heard.append(dispatch.pk)

    signals.dispatch_finished.connect(listen)
    try:
        run(70)
    finally:
        signals.dispatch_finished.disconnect(listen)
    states = {pk.split("_")[1]: state for pk, state in Job.objects.values_list("pk", "state")}
    assert states == {
        "used": "failed",
        "cancelled": "cancelled",
        "kept": "queued",
        "plain": "queued",
        "moved": "running",
    }
    assert set(Dispatch.objects.values_list("state", flat=True)) == {DispatchState.WITHDRAWN}
    assert len(heard) == len(set(heard)) == 5


def test_one_that_cannot_be_moved_holds_up_no_other(
    crowd: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd(5)
    real = losing.signals.worker_away.send

    def send(sender: Any, worker: Worker, **more: Any) -> Any:
        if worker.pk == "w_00002":
            raise ValueError("a listener fails")
        return real(sender=sender, worker=worker, **more)

    monkeypatch.setattr(losing.signals.worker_away, "send", send)
    run(70)
    left = Worker.objects.exclude(state=WorkerState.LOST)
    assert [worker.pk for worker in left] == ["w_00002"]


def test_one_that_posts_meanwhile_is_left_alone(crowd: Callable[..., None]) -> None:
    crowd(3)
    Worker.objects.filter(pk="w_00001").update(last_seen_at=at(69), due_at=at(110))
    assert workers_silent([f"w_{n:05}" for n in range(3)], now=at(70), resumed_at=LONG_AGO) == 2
    assert Worker.objects.get(pk="w_00001").state == WorkerState.ONLINE


@pytest.mark.slow
def test_ten_thousand_are_lost_and_all_their_jobs_wait_again(crowd: Callable[..., None]) -> None:
    crowd(10_000)
    looks = 0
    while Worker.objects.exclude(state=WorkerState.LOST).exists():
        run(75 + looks)
        looks += 1
        assert looks <= 10, "a run moves a thousand at least, however slow the machine"
    assert not Job.objects.exclude(state=JobState.QUEUED).exists()
