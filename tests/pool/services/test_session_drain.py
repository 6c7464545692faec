"""An agent near its session's end says that it drains; that is its own word, and ends with its session."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.contrib.auth.models import User

from agent import wire
from core.reasons import because
from pool.models import Worker
from pool.services.accounts import account_create
from pool.services.intake import intake_drain
from pool.services.jobs import jobs_dispatch
from pool.services.waiting import candidates
from pool.services.workers import worker_drain
from pool.states import WorkerState
from tests.pool.conftest import NOON
from tests.pool.services.jobs import attempt, claim, finish, state, submit

pytestmark = pytest.mark.usefixtures("valkey")

Stream = Callable[..., str]


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def posted(stream: Stream, worker: Worker, word: str, *, seconds: float, jobs: tuple[str, ...] = ()) -> str:
    stream(worker, at=at(seconds), status=word, jobs=list(jobs))
    intake_drain(now=at(seconds))
    worker.refresh_from_db()
    return str(worker.state)


def test_it_gets_nothing_new_keeps_what_it_has_and_its_job_goes_elsewhere_at_once(
    alice: User, enrol: Callable[..., Worker], stream: Stream
) -> None:
    worker = enrol("near-its-end", slots=2)
    job = submit(alice)
    jobs_dispatch(now=NOON)
    claim(job)
    other = submit(alice, name="not begun")
    jobs_dispatch(now=at(1))
    assert posted(stream, worker, wire.DRAINING, seconds=30, jobs=(attempt(job).pk,)) == "draining"
    assert worker.reason == "its session is near its end: its agent ends what it runs"
    assert (state(job)[0], state(other)[0]) == ("running", "queued")
    enrol("fresh", slots=2, now=at(30))
    jobs_dispatch(now=at(31))
    assert attempt(other).worker.name == "fresh"
    finish(job, "interrupted", None, reason="the session's limit of 8.5 h is near")
    jobs_dispatch(now=at(32))
    assert attempt(job).worker.name == "fresh"
    assert posted(stream, worker, wire.ENDED, seconds=33) == "offline"


def test_started_anew_it_works_again_without_anybody_taking_an_order_back(
    enrol: Callable[..., Worker], stream: Stream
) -> None:
    worker = enrol()
    posted(stream, worker, wire.DRAINING, seconds=30)
    assert posted(stream, worker, "idle", seconds=60) == "online"
    posted(stream, worker, wire.DRAINING, seconds=90)
    posted(stream, worker, wire.ENDED, seconds=95)
    assert posted(stream, worker, "idle", seconds=120) == "online"


def test_an_order_to_drain_stands_whatever_the_agent_says(
    enrol: Callable[..., Worker], stream: Stream
) -> None:
    worker = enrol()
    posted(stream, worker, wire.DRAINING, seconds=30)
    worker_drain(worker, reason=because("asked", by="ops"), by="ops", now=at(40))
    assert posted(stream, worker, "idle", seconds=60) == "draining"
    posted(stream, worker, wire.ENDED, seconds=70)
    assert posted(stream, worker, "idle", seconds=90) == WorkerState.DRAINING


def test_a_job_that_its_worker_gives_back_because_it_ends_is_not_given_to_it_again(
    alice: User, enrol: Callable[..., Worker], stream: Stream
) -> None:
    worker = enrol()
    job = submit(alice)
    jobs_dispatch(now=NOON)
    claim(job)
    stream(worker, at=at(29), status="busy", jobs=[attempt(job).pk])
    finish(job, "interrupted", None, reason="told to end", result={wire.WORKER_ENDS: True})
    assert jobs_dispatch(now=at(30)) == 0
    intake_drain(now=at(31))
    worker.refresh_from_db()
    assert (worker.state, jobs_dispatch(now=at(31))) == ("draining", 0), "its older post changes nothing"
    assert posted(stream, worker, "idle", seconds=60) == "online"
    assert jobs_dispatch(now=at(61)) == 1


@pytest.mark.parametrize(
    ("result", "ends"),
    [
        ({wire.WORKER_ENDS: True, wire.NOT_STARTED: True}, "queued"),
        ({wire.WORKER_ENDS: True}, "failed"),
        ({wire.NOT_STARTED: True}, "failed"),
    ],
)
def test_an_attempt_whose_command_its_workers_end_kept_from_starting_uses_nothing_up(
    alice: User, enrol: Callable[..., Worker], result: dict[str, bool], ends: str
) -> None:
    job = submit(alice, max_attempts=1)
    enrol()
    assert jobs_dispatch(now=NOON) == 1
    claim(job)
    finish(job, "interrupted", None, reason="the session's limit of 8.5 h is near", result=result)
    assert state(job)[0] == ends


def test_a_worker_gets_nothing_in_the_last_moments_of_its_session(
    alice: User, enrol: Callable[..., Worker], stream: Stream
) -> None:
    kaggle = account_create(owner=alice, kind="kaggle", label="k")
    worker = enrol(into=kaggle)
    stream(worker, session_runtime_hours=8.5 - 170 / 3600)
    intake_drain(now=NOON)
    job = submit(alice)
    assert jobs_dispatch(now=NOON) == 0
    reading = candidates(instances=[""], now=NOON)[0].reading
    assert not reading.safe and reading.why_unsafe().code == "session_used_up"
    Worker.objects.update(safe_until=None)
    assert jobs_dispatch(now=NOON) == 1, "nothing else is in the way"
    assert state(job)[0] == "dispatched"
