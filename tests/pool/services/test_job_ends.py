"""Jobs: how they end, once, and how they are cancelled."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from agent import wire
from core.errors import StandDown, TransitionRefused
from core.reasons import because
from pool.models import Job, Worker
from pool.services import cancelling
from pool.services.cancelling import job_cancel
from pool.services.dispatches import dispatch_withdraw
from pool.services.jobs import jobs_dispatch
from pool.services.publish import orders_of
from pool.services.reports import dispatch_finish, dispatch_progress
from pool.services.workers import worker_lost, worker_offline
from pool.states import JobState, WorkerState
from tests.pool.conftest import NOON
from tests.pool.services.jobs import SOON, attempt, claim, finish, identity, state, submit

# -- ends ---------------------------------------------------------------------------------------------


def running(alice: User, **spec: Any) -> Job:
    job = submit(alice, **spec)
    assert jobs_dispatch(now=NOON) == 1
    claim(job)
    return job


def test_another_exit_code_is_a_failure(alice: User, enrol: Callable[..., Worker]) -> None:
    enrol()
    job = running(alice)
    finish(job, "failed", 3)
    assert state(job) == ("failed", "exit code 3")
    assert job.exit_code == 3


def test_a_success_with_another_exit_code_is_none(alice: User, enrol: Callable[..., Worker]) -> None:
    enrol()
    job = running(alice)
    finish(job, "succeeded", 1)
    assert state(job) == ("failed", "exit code 1")


def test_a_job_that_could_not_be_started_says_why(alice: User, enrol: Callable[..., Worker]) -> None:
    enrol("w")
    job = running(alice)
    finish(job, "failed", None, reason="no such program: trian")
    assert state(job) == ("failed", "w could not run it: no such program: trian")


def test_an_interrupted_job_runs_again_elsewhere(alice: User, enrol: Callable[..., Worker]) -> None:
    enrol("a"), enrol("b")
    job = running(alice)
    before = attempt(job)
    finish(job, "interrupted", None, reason="the session's limit is reached")
    assert state(job)[0] == "queued"
    assert "attempt 1 ended early: the worker stopped" in job.reason
    assert jobs_dispatch(now=SOON) == 1
    assert attempt(job).number == 2
    assert attempt(job).worker_id != before.worker_id


def test_a_lost_workers_job_runs_again_and_its_late_result_is_told_to_stand_down(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    enrol("a"), enrol("b")
    job = running(alice)
    old = attempt(job)
    lost = old.worker
    Worker.objects.filter(pk=lost.pk).update(state=WorkerState.SUSPECT)
    lost.refresh_from_db()
    worker_lost(lost, reason=because("posts_missing", silent_s=70, interval_s=30), now=SOON)
    assert jobs_dispatch(now=SOON) == 1
    assert attempt(job).worker != lost
    with pytest.raises(StandDown):
        post = wire.FinishPost(fence=old.fence, outcome="succeeded", exit_code=0)
        dispatch_finish(identity=identity(lost), dispatch_id=old.pk, post=post, now=SOON)
    claim(job)
    finish(job)
    assert state(job)[0] == "succeeded"


def test_attempts_that_had_begun_are_used_up_unanswered_bells_are_not(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    enrol(slots=50)
    job = submit(alice, max_attempts=2)
    for _ in range(4):
        jobs_dispatch(now=NOON)
        dispatch_withdraw(attempt(job), reason=because("dispatch_unanswered", minutes=10), now=NOON)
    assert state(job)[0] == "queued"
    for _ in range(2):
        assert state(job)[0] == "queued"
        jobs_dispatch(now=NOON)
        claim(job)
        finish(job, "interrupted", None, reason="preempted")
    assert state(job)[0] == "failed"
    assert job.reason.startswith("all 2 attempts ended early, the last because: the worker stopped")
    assert job.attempt == 6


def test_a_worker_that_still_runs_what_was_taken_back_gets_nothing_new(
    alice: User, enrol: Callable[..., Worker], stream: Callable[..., str]
) -> None:
    from pool.services.intake import intake_drain

    worker = enrol()
    job = running(alice)
    old = attempt(job)
    dispatch_withdraw(old, reason=because("lease_over", lease_s=90), now=SOON)
    assert jobs_dispatch(now=SOON) == 0
    assert state(job)[1] == "all 1 workers that fit and are safe are busy"
    later = SOON + timedelta(seconds=30)
    stream(worker, at=later, jobs=[])
    intake_drain(now=later)
    assert jobs_dispatch(now=later) == 1


# -- cancelling ---------------------------------------------------------------------------------------


def test_a_queued_or_unclaimed_job_is_cancelled_at_once(alice: User, enrol: Callable[..., Worker]) -> None:
    queued = submit(alice)
    assert job_cancel(queued, by="alice", now=SOON).state == JobState.CANCELLED
    enrol()
    rung = submit(alice)
    jobs_dispatch(now=NOON)
    assert job_cancel(rung, by="alice", now=SOON).state == JobState.CANCELLED
    assert state(rung) == ("cancelled", "cancelled by alice")
    with pytest.raises(StandDown):
        claim(rung)


def test_a_running_job_is_cancelled_when_its_worker_has_ended_it(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    worker = enrol()
    job = running(alice)
    assert job_cancel(job, by="ops", now=SOON).state == JobState.RUNNING
    assert orders_of([worker.pk]) == {worker.pk: [wire.Order(kind="cancel", id=attempt(job).pk)]}
    finish(job, "cancelled", None)
    assert state(job) == ("cancelled", "cancelled by ops")


@pytest.mark.parametrize("again", [False, True])
def test_a_cancel_counts_although_the_attempt_ends_at_that_very_moment(
    alice: User, enrol: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """PostgreSQL waits for the lock of a dispatch that is being ended, and hands over what has ended."""
    enrol("a"), enrol("b")
    job = running(alice)
    locked = cancelling.dispatch_locked
    asked: list[str] = []

    def ended_meanwhile(dispatch_id: str) -> Any:
        asked.append(dispatch_id)
        if len(asked) == 1:
            finish(job, "interrupted", None, reason="the session's limit is reached")
            if again:
                jobs_dispatch(now=SOON)
                claim(job)
        return locked(dispatch_id)

    monkeypatch.setattr(cancelling, "dispatch_locked", ended_meanwhile)
    job_cancel(Job.objects.get(pk=job.pk), by="alice", now=SOON)
    if not again:
        assert state(job) == ("cancelled", "cancelled by alice")
        return
    assert state(job)[0] == "running" and job.cancel_requested_at == SOON
    assert attempt(job).cancel_requested_at == SOON, "the attempt that runs by now is ordered to stop"


def test_a_cancelled_job_whose_worker_is_lost_is_not_run_again(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    enrol("a"), enrol("b")
    job = running(alice)
    job_cancel(job, by="alice", now=SOON)
    worker_offline(attempt(job).worker, reason=because("session_ended"), now=SOON)
    assert state(job) == ("cancelled", "cancelled by alice")


def test_a_job_that_ends_before_the_order_arrives_has_ended_so(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    enrol()
    job = running(alice)
    job_cancel(job, by="alice", now=SOON)
    finish(job)
    assert state(job)[0] == "succeeded"
    with pytest.raises(TransitionRefused, match="succeeded already"):
        job_cancel(job, by="alice", now=SOON)


def test_cancelling_twice_is_fine(alice: User) -> None:
    job = submit(alice)
    stale = Job.objects.get(pk=job.pk)
    job_cancel(job, by="alice", now=SOON)
    assert job_cancel(stale, by="alice", now=SOON).state == JobState.CANCELLED


def test_a_worker_that_stops_a_job_unasked_does_not_end_it(alice: User, enrol: Callable[..., Worker]) -> None:
    enrol()
    job = running(alice)
    finish(job, "cancelled", None)
    assert state(job)[0] == "queued"


def test_a_job_whose_files_wait_for_the_store_runs_and_says_so(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    enrol("w1")
    job = submit(alice)
    jobs_dispatch(now=NOON)
    claim(job)
    row = attempt(job)
    before = state(job)

    def tell(phase: str) -> tuple[str, str]:
        post = wire.ProgressPost(fence=row.fence, phase=phase)
        dispatch_progress(identity=identity(row.worker), dispatch_id=row.pk, post=post, now=SOON)
        return state(job)

    assert tell("checkpoint") == before
    assert tell(wire.STORE_AWAY) == ("running", "its files are on their way: the store is away")
    assert tell(wire.STORE_AWAY) == ("running", "its files are on their way: the store is away")
    assert tell("artifacts") == before
