"""advance: one guarded change, or a refusal that says what was found."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.db import transaction

from core.errors import TransitionRefused
from core.models import Event
from core.reasons import because
from core.transitions import Move, advance, advance_each
from pool.models import Account, Job, Worker
from pool.states import JobState, WorkerState

NOON = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)


@pytest.fixture
def worker(alice: User) -> Worker:
    account = Account.objects.create(owner=alice, kind="local", label="a")
    return Worker.objects.create(account=account, name="w", state=WorkerState.ONLINE, epoch=3)


@pytest.fixture
def job(alice: User) -> Job:
    return Job.objects.create(owner=alice, name="j", state=JobState.QUEUED)


def test_a_change_moves_the_row_its_copy_and_its_history(worker: Worker) -> None:
    advance(
        worker,
        WorkerState.DRAINING,
        reason=because("operator", note="x"),
        by="alice",
        now=NOON,
        data={"more": 1},
        slots=2,
    )
    row = Worker.objects.get(pk=worker.pk)
    for copy in (worker, row):
        assert (copy.state, copy.state_since, copy.slots) == ("draining", NOON, 2)
        assert copy.state_deadline == NOON + timedelta(hours=24)
        assert copy.reason == "an operator decided so: x"
    event = Event.objects.get()
    assert (event.subject_type, event.subject_id, event.code) == ("worker", worker.pk, "worker_draining")
    assert (event.from_state, event.to_state, event.by, event.at) == ("online", "draining", "alice", NOON)
    assert (event.owner, event.data) == (worker.account.owner, {"more": 1})


def test_of_two_stale_copies_one_wins_and_the_other_is_told_what_it_found(worker: Worker) -> None:
    other = Worker.objects.get(pk=worker.pk)
    advance(worker, WorkerState.DRAINING, reason=because("created"))
    with pytest.raises(TransitionRefused, match=r"is draining \(epoch 3\)") as refused:
        advance(other, WorkerState.SUSPECT, reason=because("created"))
    assert refused.value.facts["found"] == "draining (epoch 3)"
    assert other.state == WorkerState.ONLINE
    assert Event.objects.count() == 1


def test_a_copy_of_another_epoch_is_stale_although_its_state_is_right(worker: Worker) -> None:
    other = Worker.objects.get(pk=worker.pk)
    Worker.objects.filter(pk=worker.pk).update(epoch=4)
    with pytest.raises(TransitionRefused, match="epoch 4"):
        advance(other, WorkerState.DRAINING, reason=because("created"))


def test_a_new_fence_is_set_in_the_same_change(job: Job) -> None:
    advance(job, JobState.DISPATCHED, reason=because("created"), fence=1)
    job.refresh_from_db()
    assert job.attempt == 1


def test_what_the_table_does_not_allow_is_refused_before_anything_is_asked(worker: Worker) -> None:
    with pytest.raises(TransitionRefused, match="cannot become lost: it is online"):
        advance(worker, WorkerState.LOST, reason=because("created"))


def test_a_row_that_is_gone_is_said_to_be_gone(job: Job) -> None:
    Job.objects.all().delete()
    with pytest.raises(TransitionRefused, match="it is gone"):
        advance(job, JobState.CANCELLED, reason=because("created"))


def test_change_and_event_are_rolled_back_together(worker: Worker) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        advance(worker, WorkerState.DRAINING, reason=because("created"))
        raise RuntimeError("what the caller did next")
    assert Worker.objects.get(pk=worker.pk).state == WorkerState.ONLINE
    assert not Event.objects.exists()


def test_an_event_that_cannot_be_written_undoes_the_change(worker: Worker) -> None:
    with pytest.raises(TypeError), transaction.atomic():
        advance(worker, WorkerState.DRAINING, reason=because("created"), data={"not json": object()})
    assert Worker.objects.get(pk=worker.pk).state == WorkerState.ONLINE


def test_every_change_is_one_log_line(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="core"):
        advance(worker, WorkerState.DRAINING, reason=because("operator", note="x"), by="alice")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"worker={worker.pk} online -> draining reason='an operator decided so: x' by=alice"


def test_many_are_moved_together_each_with_its_own_reason_and_columns(worker: Worker) -> None:
    other = Worker.objects.create(account=worker.account, name="o", state=WorkerState.DRAINING, epoch=1)
    moves = [
        Move(
            row=one,
            reason=because("operator", note=one.name),
            columns={"due_at": NOON + timedelta(seconds=number)},
        )
        for number, one in enumerate((worker, other))
    ]
    with transaction.atomic():
        advance(worker, WorkerState.SUSPECT, reason=because("created"), now=NOON)
        advance_each(moves, WorkerState.LOST, now=NOON)
    for number, copy in enumerate((worker, other)):
        row = Worker.objects.get(pk=copy.pk)
        for one in (copy, row):
            assert (one.state, one.state_since, one.due_at) == (
                "lost",
                NOON,
                NOON + timedelta(seconds=number),
            )
            assert one.reason == f"an operator decided so: {copy.name}" and one.state_deadline is None
        event = Event.objects.get(subject_id=copy.pk, code="worker_lost")
        assert (event.from_state, event.reason) == (("suspect", "draining")[number], copy.reason)


@pytest.mark.parametrize("change", [{"state": WorkerState.SUSPECT}, {"epoch": 4}])
def test_of_many_none_is_moved_where_one_is_not_what_its_copy_says(
    worker: Worker, change: dict[str, object]
) -> None:
    other = Worker.objects.create(account=worker.account, name="o", state=WorkerState.ONLINE, epoch=1)
    Worker.objects.filter(pk=worker.pk).update(**change)
    moves = [Move(row=one, reason=because("created")) for one in (other, worker)]
    with pytest.raises(TransitionRefused, match="some have moved"), transaction.atomic():
        advance_each(moves, WorkerState.DRAINING, now=NOON)
    assert not Event.objects.exists()
    assert Worker.objects.get(pk=other.pk).state == other.state == WorkerState.ONLINE


def test_many_go_only_where_their_table_lets_them(worker: Worker) -> None:
    with pytest.raises(TransitionRefused, match="cannot become lost"):
        advance_each([Move(row=worker, reason=because("created"))], WorkerState.LOST, now=NOON)
