"""Jobs that come after others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from core.errors import Invalid
from core.models import Event
from pool.models import Job, JobDependency, Worker
from pool.services import deferred
from pool.services.cancelling import array_cancel, job_cancel
from pool.services.deferred import deferred_release
from pool.services.job_spec import JobSpec
from pool.services.jobs import jobs_dispatch
from pool.services.submission import array_submit
from tests.pool.conftest import NOON
from tests.pool.services.jobs import SOON, claim, finish, state, submit

Enrol = Callable[..., Worker]


def run(job: Job, outcome: str = "succeeded", exit_code: int = 0) -> None:
    jobs_dispatch(now=NOON)
    claim(job)
    finish(job, outcome, exit_code)


def test_a_job_waits_for_those_before_it_and_says_for_which(alice: User, enrol: Enrol) -> None:
    enrol(slots=3)
    first, second = submit(alice), submit(alice)
    third = submit(alice, after=[first.pk, second.pk])
    assert state(third) == (
        "deferred",
        f"waits for 2 jobs to have succeeded, the first of them {min(first.pk, second.pk)}",
    )
    assert "if that cannot come any more, it is cancelled" in third.remedy
    assert jobs_dispatch(now=NOON) == 2
    claim(first), finish(first)
    assert jobs_dispatch(now=SOON) == 0 and state(third)[0] == "deferred"
    claim(second), finish(second)
    assert jobs_dispatch(now=SOON) == 1 and state(third)[0] == "dispatched"
    assert not Job.objects.filter(has_dependants=True).exists()


def test_a_job_after_one_that_failed_is_cancelled_with_the_reason_and_all_that_come_after_it(
    alice: User, enrol: Enrol
) -> None:
    enrol()
    first = submit(alice)
    second = submit(alice, after=[first.pk])
    third = submit(alice, after=[second.pk])
    anyway = submit(alice, after=[second.pk], after_policy="ended")
    run(first, "failed", 3)
    jobs_dispatch(now=SOON)
    assert state(second) == ("cancelled", f"{first.pk}, which it comes after, has failed")
    assert state(third) == ("cancelled", f"{second.pk}, which it comes after, has cancelled")
    assert state(anyway)[0] == "dispatched"
    assert second.ended_at == third.ended_at == SOON


def test_cancelling_what_is_waited_for_counts_as_its_end(alice: User) -> None:
    first = submit(alice)
    wants, anyway = submit(alice, after=[first.pk]), submit(alice, after=[first.pk], after_policy="ended")
    job_cancel(first, by="alice", now=SOON)
    deferred_release(now=SOON)
    assert state(wants)[0] == "cancelled"
    assert state(anyway) == (
        "queued",
        "the jobs before it have ended: it waits for the next choice of a worker",
    )


def test_those_that_have_succeeded_already_are_not_waited_for(alice: User, enrol: Enrol) -> None:
    enrol()
    first = submit(alice)
    run(first)
    assert state(submit(alice, after=[first.pk]))[0] == "queued"


def test_one_that_waits_can_be_cancelled(alice: User) -> None:
    second = submit(alice, after=[submit(alice).pk])
    job_cancel(second, by="alice", now=SOON)
    assert state(second) == ("cancelled", "cancelled by alice")


def test_only_ones_own_jobs_can_be_waited_for_and_nothing_is_written_otherwise(
    alice: User, bob: User, ops: User, enrol: Enrol
) -> None:
    hers = submit(alice)
    for after in ([hers.pk], ["j_nothing"], ["x"]):
        with pytest.raises(Invalid, match=r"no job or array .* of yours"):
            submit(bob, after=after)
    assert Job.objects.count() == 1
    assert state(submit(ops, after=[hers.pk]))[0] == "deferred"


def test_success_of_one_that_has_failed_is_refused_and_its_end_is_not(alice: User, enrol: Enrol) -> None:
    enrol()
    first = submit(alice)
    run(first, "failed", 1)
    with pytest.raises(Invalid, match=f"{first.pk} has failed") as refused:
        submit(alice, after=[first.pk])
    assert refused.value.hint == "leave it out, or submit with after_policy ended"
    assert state(submit(alice, after=[first.pk], after_policy="ended"))[0] == "queued"


@pytest.mark.parametrize(
    ("spec", "why"),
    [({"after": ["j_1"] * 101}, "at most 100"), ({"after_policy": "never"}, "succeeded or ended")],
)
def test_what_is_out_of_bounds_is_refused(alice: User, spec: dict[str, Any], why: str) -> None:
    with pytest.raises(Invalid, match=why):
        submit(alice, **spec)


MANY = 1_500


def dependants(job: Job, number: int, **columns: Any) -> None:
    rows = Job.objects.bulk_create(
        Job(
            owner=job.owner,
            name="d",
            command=["true"],
            state="deferred",
            state_since=NOON,
            queued_at=NOON,
            **columns,
        )
        for _ in range(number)
    )
    JobDependency.objects.bulk_create(JobDependency(job=row, on=job) for row in rows)
    Job.objects.filter(pk=job.pk).update(has_dependants=True)


@pytest.mark.parametrize(("outcome", "becomes"), [("succeeded", "queued"), ("failed", "cancelled")])
def test_many_dependants_are_moved_together_not_one_by_one(
    alice: User, enrol: Enrol, outcome: str, becomes: str
) -> None:
    enrol()
    job = submit(alice)
    dependants(job, MANY)
    run(job, outcome, int(outcome == "failed"))
    with CaptureQueriesContext(connection) as queries:
        assert deferred_release(now=SOON) == MANY
    # Of them most insert events, of which SQLite takes some ninety a statement.
    assert len(queries) < 25 + MANY / 50, len(queries)
    assert Job.objects.filter(state=becomes).count() == MANY
    assert Event.objects.filter(from_state="deferred", to_state=becomes).count() == MANY
    assert deferred_release(now=SOON + timedelta(seconds=1)) == 0


def test_what_comes_after_a_cancelled_array_costs_one_statement_not_one_for_each_of_its_jobs(
    alice: User,
) -> None:
    array = array_submit(owner=alice, spec=JobSpec(command=["true"], count=150), now=NOON)
    after = submit(alice, after=[array.pk])
    last = submit(alice, after=[after.pk])
    array_cancel(array, by="alice", now=SOON)
    with CaptureQueriesContext(connection) as queries:
        assert deferred_release(now=SOON) == 2
    assert len(queries) < 60, len(queries)
    assert state(after)[0] == state(last)[0] == "cancelled"
    assert "which it comes after, has cancelled" in after.reason
    assert not Job.objects.filter(has_dependants=True).exists()


def test_one_run_cancels_after_so_many_and_the_next_goes_on(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferred, "CULPRITS_AT_ONCE", 2)
    before = [submit(alice) for _ in range(5)]
    after = [submit(alice, after=[job.pk]) for job in before]
    for job in before:
        job_cancel(job, by="alice", now=SOON)
    assert [deferred_release(now=SOON) for _ in range(4)] == [2, 2, 1, 0]
    for job, waited in zip(before, after, strict=True):
        assert state(waited) == ("cancelled", f"{job.pk}, which it comes after, has cancelled")


def test_a_run_that_is_killed_in_between_is_finished_by_the_next(
    alice: User, enrol: Enrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol()
    first = submit(alice)
    second = submit(alice, after=[first.pk])
    run(first)

    class Killed(Exception):
        pass

    def killed(*_: Any, **__: Any) -> int:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(deferred, "advance_many", killed)
        with pytest.raises(Killed):
            deferred_release(now=SOON)
    assert state(second)[0] == "deferred"
    deferred_release(now=SOON)
    assert state(second)[0] == "queued"
