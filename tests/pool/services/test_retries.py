"""Timeouts, and retries with their back-off."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from core.errors import Invalid
from core.reasons import because
from pool.models import Job, Worker
from pool.retry import Retry
from pool.services.cancelling import job_cancel
from pool.services.dispatches import dispatch_withdraw
from pool.services.jobs import jobs_dispatch
from pool.services.reports import dispatch_claim
from tests.pool.conftest import NOON
from tests.pool.services.jobs import SOON, attempt, claim, finish, identity, state, submit

Enrol = Callable[..., Worker]


def running(alice: User, **spec: Any) -> Job:
    job = submit(alice, **spec)
    jobs_dispatch(now=NOON)
    claim(job)
    return job


def test_a_job_that_ran_out_of_time_says_so_and_not_how_it_was_killed(alice: User, enrol: Enrol) -> None:
    enrol()
    job = running(alice, timeout_s=60)
    finish(job, "failed", 143, reason="timed out after 60 s", timed_out_s=60.0)
    assert state(job) == ("failed", "timed out after 60 s")
    assert job.exit_code == 143
    assert attempt(job).reason == "the worker ended it after 60 s, its time limit"


def test_a_chosen_exit_code_is_tried_again_when_its_time_has_come_and_not_before(
    alice: User, enrol: Enrol
) -> None:
    enrol()
    job = running(alice, retry=Retry(exit_codes=(75,), max_retries=2, backoff_s=10, backoff_factor=2))
    finish(job, "failed", 75)
    assert state(job) == ("deferred", "exit code 75; retry 1 of 2 at 2026-11-18 12:00:40 UTC")
    assert job.not_before == SOON + timedelta(seconds=10)
    assert job.remedy == "it is queued again at 2026-11-18 12:00:40 UTC; cancel it to give up"
    assert jobs_dispatch(now=SOON + timedelta(seconds=9)) == 0
    assert state(job)[0] == "deferred"
    assert jobs_dispatch(now=SOON + timedelta(seconds=10)) == 1
    assert state(job)[0] == "dispatched"
    assert (job.attempt, job.retries, job.not_before) == (2, 1, None)
    claim(job)
    finish(job, "failed", 75)
    assert job.__class__.objects.get(pk=job.pk).not_before == SOON + timedelta(seconds=20)
    jobs_dispatch(now=SOON + timedelta(seconds=20))
    claim(job)
    finish(job, "failed", 75)
    assert state(job) == ("failed", "exit code 75")
    assert job.exit_code == 75


@pytest.mark.parametrize(
    "end",
    [
        {"outcome": "failed", "exit_code": 2},
        {"outcome": "failed", "exit_code": 143, "timed_out_s": 5.0},
        {"outcome": "failed", "exit_code": None, "reason": "no such program"},
    ],
    ids=["another exit code", "a timeout", "never started"],
)
def test_what_was_not_chosen_is_not_tried_again(alice: User, enrol: Enrol, end: dict[str, Any]) -> None:
    enrol()
    job = running(alice, retry=Retry(exit_codes=(75, 143)))
    finish(job, **end)
    assert state(job)[0] == "failed"


def test_attempts_lost_with_their_worker_are_no_retries_and_retries_no_lost_attempts(
    alice: User, enrol: Enrol
) -> None:
    enrol()
    job = running(alice, max_attempts=2, retry=Retry(max_retries=2, backoff_s=0))
    finish(job, "failed", 1)
    jobs_dispatch(now=SOON)
    claim(job)
    dispatch_withdraw(attempt(job), reason=because("lease_over", lease_s=30), now=SOON)
    assert state(job)[0] == "queued" and job.retries == 1
    # The machine that was lost may still run it: its slot is not free.
    enrol("other")
    jobs_dispatch(now=SOON)
    claim(job)
    finish(job, "failed", 1)
    assert state(job)[0] == "deferred" and job.retries == 2
    jobs_dispatch(now=SOON)
    dispatch_claim(identity=identity(attempt(job).worker), dispatch_id=attempt(job).pk, now=SOON)
    dispatch_withdraw(attempt(job), reason=because("lease_over", lease_s=30), now=SOON)
    assert state(job)[0] == "failed"
    assert job.reason.startswith("all 2 attempts ended early")


def test_a_job_that_waits_for_its_retry_is_cancelled_at_once(alice: User, enrol: Enrol) -> None:
    enrol()
    job = running(alice, retry=Retry(backoff_s=600))
    finish(job, "failed", 1)
    job_cancel(Job.objects.get(pk=job.pk), by="alice", now=SOON)
    assert state(job) == ("cancelled", "cancelled by alice")
    assert jobs_dispatch(now=SOON + timedelta(hours=1)) == 0


def test_a_job_that_was_to_be_cancelled_is_not_tried_again(alice: User, enrol: Enrol) -> None:
    enrol()
    job = running(alice, retry=Retry())
    job_cancel(Job.objects.get(pk=job.pk), by="alice", now=SOON)
    finish(job, "failed", 1)
    assert state(job)[0] == "failed"


@pytest.mark.parametrize(
    ("retry", "why"),
    [
        (Retry(exit_codes=()), "exit_codes"),
        (Retry(exit_codes=(0,)), "exit_codes"),
        (Retry(exit_codes=(256,)), "exit_codes"),
        (Retry(max_retries=0), "max_retries"),
        (Retry(backoff_s=-1), "backoff_s"),
        (Retry(backoff_s=float("nan")), "backoff_s"),
        (Retry(backoff_factor=0.5), "backoff_factor"),
        (Retry(max_backoff_s=1e9), "max_backoff_s"),
    ],
)
def test_a_wrong_retry_is_refused_by_its_field(alice: User, retry: Retry, why: str) -> None:
    with pytest.raises(Invalid, match=why) as refused:
        submit(alice, retry=retry)
    assert refused.value.facts["errors"][0]["field"] == "retry"
