"""Status posts from the stream into rows."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import DataError, connection

from core import broker
from core.agents import AgentIdentity
from core.models import Cursor, Event
from core.reasons import because
from gateway import keys
from pool import signals
from pool.models import Account, AccountWeek, Dispatch, Sample, Session, Worker
from pool.services import intake
from pool.services import stream as status_stream
from pool.services.accounts import account_create
from pool.services.dispatches import dispatch_ask, dispatch_withdraw
from pool.services.intake import intake_drain
from pool.services.reports import dispatch_claim
from pool.services.workers import worker_offline, worker_revoke
from pool.states import WorkerState
from tests.pool.conftest import GIB, NOON, append

Post = Callable[..., str]
SOON = NOON + timedelta(seconds=30)


def drain(now: datetime = SOON, **kwargs: Any) -> int:
    return intake_drain(now=now, **kwargs)


def length() -> int:
    return int(broker.client().xlen(keys.STATUS_STREAM))


def test_a_post_becomes_a_sample_and_the_worker_is_seen(enrol: Callable[..., Worker], stream: Post) -> None:
    worker = enrol()
    stream(
        worker,
        at=NOON + timedelta(seconds=20),
        gpu_util=42.5,
        status="busy",
        session_runtime_hours=0.5,
        gpus=[
            {"index": 0, "name": "A100", "mem_total_bytes": 80 * GIB},
            {"index": 1, "mem_total_bytes": 40 * GIB},
        ],
        health_url="https://box.example/health",
        net_bytes_per_s=12,
        sessions={"ssh": 1},
    )
    assert drain() == 1
    sample = Sample.objects.get()
    assert (sample.worker_id, sample.epoch, sample.gpu_util, sample.status) == (worker.pk, 1, 42.5, "busy")
    assert sample.at == NOON + timedelta(seconds=20)
    assert sample.readings["sessions"] == {"ssh": 1}
    assert sample.readings["gpus"][0]["name"] == "A100"
    worker.refresh_from_db()
    assert worker.last_seen_at == sample.at
    assert worker.due_at is not None and worker.due_at > sample.at + timedelta(seconds=30)
    assert (worker.gpu_util, worker.gpu_name, worker.gpu_count) == (42.5, "A100", 2)
    assert (worker.gpu_mem_bytes, worker.health_url) == (40 * GIB, "https://box.example/health")
    assert Session.objects.get().runtime_s == 1800
    assert length() == 0


def test_an_unknown_utilisation_stays_unknown(enrol: Callable[..., Worker], stream: Post) -> None:
    worker = enrol()
    stream(worker)
    drain()
    assert Sample.objects.get().gpu_util is None


def test_the_first_post_of_a_session_brings_a_worker_online(
    enrol: Callable[..., Worker], stream: Post
) -> None:
    worker = enrol(online=False)
    heard: list[str] = []

    def hear(worker: Worker, **_: Any) -> None:
        heard.append(worker.pk)

    signals.worker_online.connect(hear)
    try:
        stream(worker, at=NOON + timedelta(seconds=1))
        drain()
    finally:
        signals.worker_online.disconnect(hear)
    worker.refresh_from_db()
    assert (worker.state, heard) == (WorkerState.ONLINE, [worker.pk])
    assert Event.objects.filter(subject_id=worker.pk, code="worker_online").exists()


@pytest.mark.parametrize("before", [WorkerState.ONLINE, WorkerState.LOST, WorkerState.OFFLINE])
def test_an_agents_last_word_ends_its_session_and_its_next_start_goes_on_with_it(
    enrol: Callable[..., Worker], stream: Post, before: WorkerState
) -> None:
    worker = enrol()
    held = dispatch_ask(worker=worker, kind="command", ref="", key="k", work={}, now=NOON)
    Worker.objects.filter(pk=worker.pk).update(state=before, state_since=NOON)
    stream(worker, at=NOON + timedelta(seconds=10), session_runtime_hours=0.5, jobs=[])
    stream(worker, at=NOON + timedelta(seconds=20), session_runtime_hours=0.5, status="ended")
    drain()
    worker.refresh_from_db()
    assert worker.state == WorkerState.OFFLINE
    if before == WorkerState.ONLINE:
        held.refresh_from_db()
        assert (worker.reason, held.state) == ("its session has ended", "withdrawn")
        assert Session.objects.get().ended_at == NOON + timedelta(seconds=20)
    stream(worker, at=SOON + timedelta(seconds=5), session_runtime_hours=0.6)
    drain(now=SOON + timedelta(seconds=6))
    worker.refresh_from_db()
    session = Session.objects.get()
    assert (worker.state, session.ended_at, session.runtime_s) == (WorkerState.ONLINE, None, 2160)


def test_a_post_from_before_its_end_was_known_brings_nobody_back(
    enrol: Callable[..., Worker], stream: Post
) -> None:
    worker = enrol()
    worker_offline(worker, reason=because("session_ended"), now=SOON)
    stream(worker, at=NOON + timedelta(seconds=10))
    drain(now=SOON)
    worker.refresh_from_db()
    assert worker.state == WorkerState.OFFLINE
    assert Session.objects.get().ended_at == SOON


@pytest.mark.parametrize("body", ["", "[]", "nonsense", '{"worker_id": 3}', '{"epoch": 1}', "{" * 5000])
def test_a_bad_post_is_dropped_and_holds_nobody_up(
    enrol: Callable[..., Worker], stream: Post, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker = enrol()
    append(body)
    stream(worker)
    assert drain() == 2
    assert Sample.objects.count() == 1
    assert "dropped" in caplog.text
    assert length() == 0


def test_posts_of_strangers_of_older_epochs_and_of_the_revoked_change_nothing(
    enrol: Callable[..., Worker], stream: Post
) -> None:
    old, revoked = enrol("old"), enrol("revoked")
    enrol("old")
    worker_revoke(revoked, reason=because("operator", note="gone"), now=NOON)
    append(json.dumps({"worker_id": "w_stranger", "epoch": 1}))
    stream(old, gpu_util=1.0)
    stream(revoked, gpu_util=1.0)
    assert drain() == 3
    assert not Sample.objects.exists()
    old.refresh_from_db()
    assert (old.gpu_util, old.epoch) == (None, 2)


def test_text_that_no_database_stores_does_not_stop_the_stream(
    enrol: Callable[..., Worker], stream: Post
) -> None:
    worker = enrol()
    stream(worker, gpus=[{"index": 0, "name": "T4\x00\ud800"}], status="id\x00le")
    assert drain() == 1
    worker.refresh_from_db()
    assert worker.gpu_name == "T4?"


def test_a_post_that_cannot_be_stored_is_dropped_alone(
    enrol: Callable[..., Worker], stream: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = [enrol() for _ in range(7)]
    for number, worker in enumerate(workers):
        stream(worker, gpu_util=float(number))
    make = intake._sample

    def fail(worker: Worker, entry: Any, at: datetime) -> Sample:
        if entry.post.gpu_util == 4:
            raise DataError("value out of range")
        return make(worker, entry, at)

    monkeypatch.setattr(intake, "_sample", fail)
    assert drain() == 7
    assert sorted(Sample.objects.values_list("gpu_util", flat=True)) == [0, 1, 2, 3, 5, 6]


def test_two_drains_store_each_post_once(
    enrol: Callable[..., Worker], stream: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have read the same page before either stores it: two stale copies are a race without threads."""
    worker = enrol()
    stream(worker, session_runtime_hours=0.1)
    pages = [status_stream.page_read(limit=10), status_stream.page_read(limit=10)]
    assert intake._store(pages[0], now=SOON) is True
    assert intake._store(pages[1], now=SOON) is False
    assert Sample.objects.count() == 1
    assert drain() == 0


def test_a_drain_that_dies_before_it_commits_has_taken_nothing(
    enrol: Callable[..., Worker], stream: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream(enrol(), session_runtime_hours=0.1)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(intake, "_write_usage", die)
        with pytest.raises(KeyboardInterrupt):
            drain()
    assert not Sample.objects.exists()
    assert drain() == 1
    assert Sample.objects.count() == 1


def test_a_long_stream_is_taken_page_by_page(enrol: Callable[..., Worker], stream: Post) -> None:
    worker = enrol()
    for minute in range(25):
        stream(worker, at=NOON + timedelta(minutes=minute), session_runtime_hours=minute / 60)
    assert drain(now=NOON + timedelta(hours=1), batch=10) == 25
    assert Sample.objects.count() == 25
    assert Session.objects.get().runtime_s == pytest.approx(24 * 60)


def test_a_stream_that_begins_anew_before_the_cursor_is_noticed(
    enrol: Callable[..., Worker], stream: Post, caplog: pytest.LogCaptureFixture
) -> None:
    worker = enrol()
    stream(worker, gpu_util=1.0)
    drain()
    broker.client().flushall()
    body = json.dumps({"worker_id": worker.pk, "epoch": worker.epoch, "gpu_util": 2.0})
    append(body, entry_id="5-1")  # by a clock that is far behind
    assert drain() == 1
    assert "begins anew" in caplog.text
    assert set(Sample.objects.values_list("gpu_util", flat=True)) == {1.0, 2.0}
    assert Cursor.objects.get(name="status").value == "5-1"


def test_an_empty_stream_after_a_flush_is_nothing_to_worry_about(
    enrol: Callable[..., Worker], stream: Post
) -> None:
    worker = enrol()
    stream(worker)
    drain()
    broker.client().flushall()
    assert drain() == 0
    stream(worker)
    assert drain() == 1


def test_a_broker_that_is_away_costs_nothing(enrol: Callable[..., Worker], stream: Post, valkey: Any) -> None:
    stream(enrol())
    valkey.kill()
    assert drain() == 0


# -- quota --------------------------------------------------------------------------------------------


@pytest.fixture
def kaggle(alice: User) -> Account:
    return account_create(owner=alice, kind="kaggle", label="k")


def test_an_accounts_week_is_the_growth_of_all_its_workers(
    enrol: Callable[..., Worker], stream: Post, kaggle: Account
) -> None:
    first, second = enrol("k1", into=kaggle), enrol("k2", into=kaggle)
    stream(first, session_runtime_hours=1.0)
    stream(second, session_runtime_hours=2.0)
    drain()
    stream(first, at=NOON + timedelta(minutes=30), session_runtime_hours=1.5)
    stream(first, at=NOON + timedelta(minutes=30), session_runtime_hours=1.5)
    drain(now=NOON + timedelta(hours=1))
    assert AccountWeek.objects.get(account=kaggle).used_s == pytest.approx(3.5 * 3600)


def test_a_reset_within_one_batch_splits_the_hours(
    enrol: Callable[..., Worker], stream: Post, kaggle: Account
) -> None:
    reset = datetime(2026, 11, 23, tzinfo=NOON.tzinfo)
    worker = enrol(into=kaggle, now=reset - timedelta(hours=1))
    stream(worker, at=reset - timedelta(minutes=30), session_runtime_hours=0.5)
    stream(worker, at=reset + timedelta(minutes=15), session_runtime_hours=1.25)
    drain(now=reset + timedelta(hours=1))
    weeks = dict(AccountWeek.objects.values_list("starts_at", "used_s"))
    assert weeks == {reset - timedelta(days=7): 3600.0, reset: 900.0}


def test_an_hour_of_silence_is_recorded_as_a_gap_and_counted(
    enrol: Callable[..., Worker], stream: Post, kaggle: Account
) -> None:
    worker = enrol(into=kaggle)
    stream(worker, session_runtime_hours=0.5)
    stream(worker, at=NOON + timedelta(hours=2), session_runtime_hours=2.5)
    drain(now=NOON + timedelta(hours=3))
    assert AccountWeek.objects.get().used_s == pytest.approx(2.5 * 3600)
    gap = Event.objects.get(code="session_gap")
    assert gap.reason == "nothing was heard for 2.00 h; its session went on and was counted"


def test_every_reading_is_logged_and_a_near_limit_is_a_warning(
    enrol: Callable[..., Worker], stream: Post, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    colab = account_create(owner=alice, kind="colab", label="c")
    safe, near = enrol("1", into=colab), enrol("2", into=colab)
    stream(safe, session_runtime_hours=2.3)
    stream(near, session_runtime_hours=10.8)
    with caplog.at_level(logging.INFO, logger="pool"):
        drain()
    said = {record.getMessage(): record.levelname for record in caplog.records}
    assert said["quota colab worker=1 session 2.30h/11.5h (20.0%) safe"] == "INFO"
    assert said["quota colab worker=2 session 10.80h/11.5h (93.9%) near limit"] == "WARNING"


def test_a_fantastic_runtime_does_not_stop_the_stream(enrol: Callable[..., Worker], stream: Post) -> None:
    worker = enrol()
    stream(worker, session_runtime_hours=1e300)
    assert drain() == 1
    assert Session.objects.get().runtime_s == 366 * 24 * 3600


# -- leases -------------------------------------------------------------------------------------------


def claimed(worker: Worker, key: str) -> Dispatch:
    asked = dispatch_ask(worker=worker, kind="command", ref="", key=key, work={"script": "true"}, now=NOON)
    dispatch_claim(
        identity=AgentIdentity(worker_id=worker.pk, epoch=worker.epoch), dispatch_id=asked.pk, now=NOON
    )
    return Dispatch.objects.get(pk=asked.pk)


def test_a_post_renews_the_leases_of_its_own_dispatches_and_of_no_others(
    enrol: Callable[..., Worker], stream: Post
) -> None:
    mine, other = enrol("a"), enrol("b")
    listed, unlisted, foreign = claimed(mine, "1"), claimed(mine, "2"), claimed(other, "3")
    stream(mine, jobs=[listed.pk, foreign.pk, "d_unknown"])
    drain(now=SOON)
    listed.refresh_from_db()
    assert listed.lease_until == SOON + timedelta(seconds=90)
    for untouched in (unlisted, foreign):
        assert Dispatch.objects.get(pk=untouched.pk).lease_until == untouched.lease_until


def test_withdrawn_work_is_over_when_its_worker_stops_mentioning_it(
    enrol: Callable[..., Worker], stream: Post
) -> None:
    worker = enrol()
    row = claimed(worker, "1")
    dispatch_withdraw(row, reason=because("lease_over", lease_s=90), now=NOON)
    stream(worker, at=NOON + timedelta(seconds=1), jobs=[row.pk])
    drain()
    assert Dispatch.objects.get(pk=row.pk).finished_at is None
    stream(worker, at=NOON + timedelta(seconds=2), jobs=[])
    drain()
    assert Dispatch.objects.get(pk=row.pk).finished_at == SOON


def test_a_late_post_tells_nothing_of_what_its_worker_does_now(
    enrol: Callable[..., Worker], stream: Post
) -> None:
    worker = enrol()
    row = claimed(worker, "1")
    dispatch_withdraw(row, reason=because("lease_over", lease_s=90), now=NOON)
    stream(worker, at=NOON + timedelta(seconds=20), session_runtime_hours=0.5, gpu_util=80.0, jobs=[row.pk])
    drain()
    stream(worker, at=NOON + timedelta(seconds=21), session_runtime_hours=0.49, gpu_util=1.0, jobs=[])
    drain()
    worker.refresh_from_db()
    assert (worker.gpu_util, Sample.objects.count()) == (80, 1)
    assert Dispatch.objects.get(pk=row.pk).finished_at is None


# -- listeners ----------------------------------------------------------------------------------------


def test_listeners_get_the_new_samples_in_the_same_transaction(
    enrol: Callable[..., Worker], stream: Post
) -> None:
    worker = enrol()
    got: list[Any] = []

    def hear(samples: list[Sample], now: datetime, **_: Any) -> None:
        got.append(([(one.worker_id, one.gpu_util, one.pk) for one in samples], now))

    signals.samples_stored.connect(hear)
    try:
        stream(worker, gpu_util=1.0)
        stream(worker, gpu_util=2.0)
        drain()
    finally:
        signals.samples_stored.disconnect(hear)
    ((samples, now),) = got
    assert [util for _, util, _ in samples] == [1.0, 2.0]
    assert all(pk for *_, pk in samples)
    assert now == SOON


def test_a_listener_that_fails_costs_its_own_part_only(enrol: Callable[..., Worker], stream: Post) -> None:
    worker = enrol()

    def fail(**_: Any) -> None:
        Worker.objects.filter(pk=worker.pk).update(platform="half done")
        raise RuntimeError("a fault of the listener")

    signals.samples_stored.connect(fail)
    try:
        stream(worker)
        assert drain() == 1
    finally:
        signals.samples_stored.disconnect(fail)
    worker.refresh_from_db()
    assert Sample.objects.count() == 1
    assert worker.platform == ""
    assert worker.last_seen_at == NOON


@pytest.mark.django_db(transaction=True)
def test_a_session_that_is_closed_while_its_post_is_stored_stays_closed(
    enrol: Callable[..., Worker], stream: Post, kaggle: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who closes it comes between reading and writing: it waits for the post, or the post is not of that session."""
    worker = enrol("k", into=kaggle)
    stream(worker, at=NOON + timedelta(minutes=5), session_runtime_hours=1 / 12)
    end = NOON + timedelta(minutes=6)

    def close() -> None:
        try:
            worker_offline(Worker.objects.get(pk=worker.pk), reason=because("session_ended"), now=end)
        finally:
            connection.close()

    closing = threading.Thread(target=close)
    read = intake._read

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        found = read(*args, **kwargs)
        closing.start()
        closing.join(timeout=0.3)  # where nothing holds it back it has closed the session by then
        return found

    monkeypatch.setattr(intake, "_read", interrupted)
    drain(now=end)
    closing.join()
    assert Worker.objects.get().state == "offline"
    assert Session.objects.get().ended_at == end
