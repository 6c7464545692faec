"""Dispatches: asked, claimed, reported, finished once, taken back. Alice's worker against Bob's."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from agent import wire
from core import broker
from core.agents import AgentIdentity
from core.errors import Busy, Invalid, NotFound, StandDown
from core.models import Event
from core.reasons import because
from gateway import keys
from pool import selectors, signals
from pool.models import Dispatch, LogChunk, Worker
from pool.selectors_logs import log_read
from pool.services import reports, workers
from pool.services.dispatches import dispatch_ask, dispatch_cancel, dispatch_withdraw
from pool.services.publish import orders_of
from pool.services.reports import dispatch_claim, dispatch_finish, dispatch_log, dispatch_progress
from pool.states import DispatchState, WorkerState
from tests.pool.conftest import NOON

SOON = NOON + timedelta(seconds=30)


def identity(worker: Worker) -> AgentIdentity:
    return AgentIdentity(worker_id=worker.pk, epoch=worker.epoch)


def ask(worker: Worker, *, key: str = "k1", kind: str = "snapshot", **work: Any) -> Dispatch:
    return dispatch_ask(worker=worker, kind=kind, ref="sn_1", key=key, work=work, now=NOON)


def claim(worker: Worker, row: Dispatch, **kwargs: Any) -> wire.Claimed:
    return dispatch_claim(identity=identity(worker), dispatch_id=row.pk, now=NOON, **kwargs)


def finish(
    worker: Worker, row: Dispatch, *, fence: int = 1, outcome: str = "succeeded", **fields: Any
) -> None:
    post = wire.FinishPost(fence=fence, outcome=outcome, **fields)
    dispatch_finish(identity=identity(worker), dispatch_id=row.pk, post=post, now=SOON)


def log(worker: Worker, row: Dispatch, offset: int, raw: bytes, *, fence: int = 1) -> int:
    post = wire.LogPost.of(fence=fence, offset=offset, raw=raw)
    return dispatch_log(identity=identity(worker), dispatch_id=row.pk, post=post, now=SOON)


@contextmanager
def listening(signal: Any) -> Iterator[list[Dispatch]]:
    heard: list[Dispatch] = []

    def hear(dispatch: Dispatch, **_: Any) -> None:
        heard.append(dispatch)

    signal.connect(hear)
    yield heard
    signal.disconnect(hear)


# -- asking -------------------------------------------------------------------------------------------


def test_asking_twice_with_one_key_finds_the_first(enrol: Callable[..., Worker]) -> None:
    worker = enrol()
    first = ask(worker, snapshot_id="sn_1")
    again = ask(worker, snapshot_id="sn_2")
    assert again.pk == first.pk
    assert again.work == {"snapshot_id": "sn_1"}
    claim(worker, first)
    finish(worker, first)
    assert ask(worker).state == DispatchState.SUCCEEDED


def test_the_bell_rings_in_the_workers_own_queue_after_the_commit(
    valkey: object, enrol: Callable[..., Worker], django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    worker, other = enrol("a"), enrol("b")
    listener = broker.client().pubsub(ignore_subscribe_messages=True)
    listener.subscribe(keys.RINGS)
    listener.get_message(timeout=5)
    with django_capture_on_commit_callbacks(execute=True):
        row = ask(worker)
        assert broker.client().llen(wire.queue_key(worker.pk)) == 0
    (message,) = broker.client().lrange(wire.queue_key(worker.pk), 0, -1)
    assert row.pk in base64.b64decode(json.loads(message)["body"]).decode()
    assert broker.client().llen(wire.queue_key(other.pk)) == 0
    assert listener.get_message(timeout=5)["data"] == worker.pk
    listener.close()


def test_a_worker_that_is_not_there_is_asked_later(enrol: Callable[..., Worker]) -> None:
    worker = enrol(online=False)
    with pytest.raises(Busy, match="offline"):
        ask(worker)
    assert not Dispatch.objects.exists()


@pytest.mark.parametrize("kind", ["job", "dance"])
def test_only_work_that_is_not_chosen_is_asked_for(enrol: Callable[..., Worker], kind: str) -> None:
    with pytest.raises(Invalid):
        ask(enrol(), kind=kind)


# -- claiming -----------------------------------------------------------------------------------------


def test_a_claim_hands_over_the_work_with_a_fence_and_a_lease(enrol: Callable[..., Worker]) -> None:
    worker = enrol()
    row = ask(worker, snapshot_id="sn_1")
    with listening(signals.dispatch_claimed) as heard:
        claimed = claim(worker, row)
    assert claimed == wire.Claimed(
        dispatch_id=row.pk, kind="snapshot", fence=1, lease_s=90, work={"snapshot_id": "sn_1"}
    )
    row.refresh_from_db()
    assert (row.state, row.lease_until, row.claimed_at) == ("claimed", NOON + timedelta(seconds=90), NOON)
    assert [one.pk for one in heard] == [row.pk]


def test_the_same_worker_may_claim_again_and_gets_the_same_fence(enrol: Callable[..., Worker]) -> None:
    worker = enrol()
    row = ask(worker)
    with listening(signals.dispatch_claimed) as heard:
        assert claim(worker, row) == claim(worker, row)
    assert len(heard) == 1


def test_a_kind_that_a_worker_does_not_take_now_stays_unclaimed(enrol: Callable[..., Worker]) -> None:
    worker = enrol()
    row = ask(worker, kind="command")
    with pytest.raises(reports.Draining):
        claim(worker, row, kinds=["snapshot"])
    row.refresh_from_db()
    assert row.state == DispatchState.RUNG
    assert claim(worker, row, kinds=["snapshot", "command"]).fence == 1


def test_another_workers_dispatch_does_not_exist(enrol: Callable[..., Worker]) -> None:
    alices, bobs = enrol("a"), enrol("b")
    row = ask(alices)
    claim(alices, row)
    reports_of_bob: list[Callable[[], object]] = [
        lambda: claim(bobs, row),
        lambda: dispatch_progress(
            identity=identity(bobs), dispatch_id=row.pk, post=wire.ProgressPost(fence=1, phase="pack")
        ),
        lambda: log(bobs, row, 0, b"x"),
        lambda: finish(bobs, row),
        lambda: claim(bobs, Dispatch(pk="d_nothing")),
    ]
    for report in reports_of_bob:
        with pytest.raises(NotFound):
            report()
    row.refresh_from_db()
    assert (row.state, row.log_bytes, row.progress) == ("claimed", 0, {})


@pytest.mark.parametrize("wrong", ["fence", "epoch", "state"])
def test_a_report_with_the_wrong_fence_epoch_or_state_writes_nothing(
    enrol: Callable[..., Worker], wrong: str
) -> None:
    worker = enrol("w")
    row = ask(worker)
    claim(worker, row)
    fence = 2 if wrong == "fence" else 1
    speaker = identity(worker)
    if wrong == "epoch":
        speaker = AgentIdentity(worker_id=worker.pk, epoch=worker.epoch + 1)
    if wrong == "state":
        dispatch_withdraw(row, reason=because("lease_over", lease_s=90), now=NOON)
    before = Dispatch.objects.filter(pk=row.pk).values().get()
    late: list[Callable[[], object]] = [
        lambda: dispatch_progress(
            identity=speaker, dispatch_id=row.pk, post=wire.ProgressPost(fence=fence, phase="pack")
        ),
        lambda: dispatch_log(
            identity=speaker, dispatch_id=row.pk, post=wire.LogPost.of(fence=fence, offset=0, raw=b"x")
        ),
        lambda: dispatch_finish(
            identity=speaker, dispatch_id=row.pk, post=wire.FinishPost(fence=fence, outcome="succeeded")
        ),
    ]
    for report in late:
        with pytest.raises(StandDown):
            report()
    after = Dispatch.objects.filter(pk=row.pk).values().get()
    kept = after.pop("late")
    before.pop("late")
    assert after == before
    assert bool(kept) == (wrong == "state"), "its own late result is kept to be looked at, nobody else's is"
    assert not LogChunk.objects.exists()


# -- reporting ----------------------------------------------------------------------------------------


def test_progress_is_stored_renews_the_lease_and_hears_of_a_cancel(enrol: Callable[..., Worker]) -> None:
    worker = enrol()
    row = ask(worker)
    claim(worker, row)
    post = wire.ProgressPost(fence=1, phase="pack", bytes_done=10, bytes_total=100)

    def report() -> dict[str, bool]:
        return dispatch_progress(identity=identity(worker), dispatch_id=row.pk, post=post, now=SOON)

    assert report() == {"cancel": False}
    row.refresh_from_db()
    assert (row.progress["bytes_done"], row.progress_at) == (10, SOON)
    assert row.lease_until == SOON + timedelta(seconds=90)
    dispatch_cancel(row, reason=because("not_wanted", why="test"), now=SOON)
    assert report() == {"cancel": True}


def test_output_is_kept_byte_for_byte_whatever_is_sent_twice(enrol: Callable[..., Worker]) -> None:
    worker = enrol()
    row = ask(worker)
    claim(worker, row)
    assert log(worker, row, 0, b"hello ") == 6
    assert log(worker, row, 0, b"hello ") == 6
    assert log(worker, row, 4, b"o \xff\x00wor") == 11
    assert log(worker, row, 2, b"llo") == 11
    assert log(worker, row, 11, b"ld") == 13
    assert log(worker, row, 13, b"") == 13
    assert b"".join(bytes(one.data) for one in row.chunks.all()) == b"hello \xff\x00world"
    assert log_read(row, offset=0).data == b"hello \xff\x00world"
    assert log_read(row, offset=7, limit=4).data == b"\x00wor"


def test_a_gap_in_the_output_adds_nothing_and_says_where_to_go_on(enrol: Callable[..., Worker]) -> None:
    worker = enrol()
    row = ask(worker)
    claim(worker, row)
    log(worker, row, 0, b"abc")
    assert log(worker, row, 10, b"xyz") == 3
    assert LogChunk.objects.count() == 1


def test_a_log_post_that_is_not_base64_or_too_long_is_refused(enrol: Callable[..., Worker]) -> None:
    worker = enrol()
    row = ask(worker)
    claim(worker, row)
    with pytest.raises(Invalid, match="base64"):
        post = wire.LogPost(fence=1, offset=0, data="*")
        dispatch_log(identity=identity(worker), dispatch_id=row.pk, post=post)
    with pytest.raises(Invalid, match="at most"):
        log(worker, row, 0, b"x" * (wire.LOG_CHUNK_LIMIT_BYTES + 1))


# -- finishing ----------------------------------------------------------------------------------------


def test_one_result_is_accepted_and_its_repetition_changes_nothing(enrol: Callable[..., Worker]) -> None:
    worker = enrol()
    row = ask(worker)
    claim(worker, row)
    with listening(signals.dispatch_finished) as heard:
        finish(worker, row, result={"content_id": "c1\x00"})
        finish(worker, row, result={"content_id": "c2"})
        with pytest.raises(StandDown):
            finish(worker, row, outcome="failed")
    row.refresh_from_db()
    assert (row.state, row.result, row.finished_at) == ("succeeded", {"content_id": "c1"}, SOON)
    assert [one.pk for one in heard] == [row.pk]
    assert Event.objects.filter(subject_id=row.pk, code="dispatch_succeeded").count() == 1


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ("failed", "the worker reported: disk full"),
        ("cancelled", "stopped as ordered"),
        ("interrupted", "the worker stopped before the work ended: disk full"),
    ],
)
def test_every_end_says_why(enrol: Callable[..., Worker], outcome: str, reason: str) -> None:
    worker = enrol()
    row = ask(worker)
    claim(worker, row)
    finish(worker, row, outcome=outcome, reason="disk full")
    row.refresh_from_db()
    assert (row.state, row.reason) == (outcome, reason)


def test_an_outcome_that_is_not_one_is_refused(enrol: Callable[..., Worker]) -> None:
    worker = enrol()
    row = ask(worker)
    claim(worker, row)
    with pytest.raises(Invalid, match="outcome"):
        finish(worker, row, outcome="withdrawn")


def test_what_a_listener_refuses_did_not_happen(enrol: Callable[..., Worker]) -> None:
    worker = enrol()
    row = ask(worker)
    claim(worker, row)

    def refuse(**_: Any) -> None:
        raise RuntimeError("no")

    signals.dispatch_finished.connect(refuse)
    try:
        with pytest.raises(RuntimeError):
            finish(worker, row)
    finally:
        signals.dispatch_finished.disconnect(refuse)
    assert Dispatch.objects.get(pk=row.pk).state == DispatchState.CLAIMED


# -- taking back --------------------------------------------------------------------------------------


def test_a_withdrawn_dispatch_is_over_once(enrol: Callable[..., Worker]) -> None:
    worker = enrol()
    row = ask(worker)
    with listening(signals.dispatch_finished) as heard:
        assert dispatch_withdraw(row, reason=because("not_wanted", why="test"), now=NOON) is True
        assert dispatch_withdraw(row, reason=because("not_wanted", why="test"), now=NOON) is False
    assert [one.state for one in heard] == ["withdrawn"]
    with pytest.raises(StandDown):
        claim(worker, row)


def test_a_worker_that_had_begun_is_ordered_to_stop(enrol: Callable[..., Worker]) -> None:
    worker = enrol()
    begun, unheard = ask(worker, key="1"), ask(worker, key="2")
    claim(worker, begun)
    for row in (begun, unheard):
        dispatch_withdraw(row, reason=because("not_wanted", why="test"), now=NOON)
    assert orders_of([worker.pk]) == {worker.pk: [wire.Order(kind="cancel", id=begun.pk)]}


def test_an_unclaimed_dispatch_is_cancelled_at_once_and_a_claimed_one_by_its_worker(
    enrol: Callable[..., Worker],
) -> None:
    worker = enrol()
    unclaimed, claimed = ask(worker, key="1"), ask(worker, key="2")
    claim(worker, claimed)
    for row in (unclaimed, claimed, claimed):
        assert dispatch_cancel(row, reason=because("not_wanted", why="test"), now=NOON)
    unclaimed.refresh_from_db()
    claimed.refresh_from_db()
    assert (unclaimed.state, claimed.state) == ("withdrawn", "claimed")
    assert orders_of([worker.pk]) == {worker.pk: [wire.Order(kind="cancel", id=claimed.pk)]}
    finish(worker, claimed, outcome="cancelled")
    assert orders_of([worker.pk]) == {}
    assert dispatch_cancel(claimed, reason=because("not_wanted", why="test"), now=NOON) is False


@pytest.mark.parametrize("leave", [workers.worker_offline, workers.worker_lost, workers.worker_revoke])
def test_whatever_a_leaving_worker_holds_is_taken_back(
    enrol: Callable[..., Worker], leave: Callable[..., None]
) -> None:
    worker = enrol()
    if leave is workers.worker_lost:
        Worker.objects.filter(pk=worker.pk).update(state=WorkerState.SUSPECT)
        worker.refresh_from_db()
    claim(worker, ask(worker, key="1"))
    ask(worker, key="2")
    with listening(signals.dispatch_finished) as heard:
        leave(worker, reason=because("session_ended"), now=SOON)
    assert [one.state for one in heard] == ["withdrawn", "withdrawn"]
    assert not selectors.dispatches_open(worker).exists()


def test_the_schema_refuses_a_claim_without_a_lease(enrol: Callable[..., Worker]) -> None:
    row = ask(enrol())
    with pytest.raises(IntegrityError), transaction.atomic():
        Dispatch.objects.filter(pk=row.pk).update(state=DispatchState.CLAIMED)


def test_open_dispatches_are_told_by_kind(enrol: Callable[..., Worker], bob: User) -> None:
    worker = enrol()
    first, second = ask(worker, key="1"), ask(worker, key="2", kind="command")
    assert set(selectors.dispatches_open(worker)) == {first, second}
    assert list(selectors.dispatches_open(worker, kinds=("command",))) == [second]
