"""Arrays: one request, many jobs that share what they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from core.errors import Invalid
from core.models import Event
from pool.models import Job, JobArray, Submission, Worker
from pool.services.cancelling import array_cancel
from pool.services.job_spec import JobSpec
from pool.services.jobs import jobs_dispatch
from pool.services.submission import KeyReused, array_submit, submit_once
from tests.pool.conftest import NOON
from tests.pool.services.jobs import SOON, claim, finish, state, submit

Enrol = Callable[..., Worker]


def array(owner: User, count: int, **spec: Any) -> JobArray:
    if "script" not in spec:
        spec["command"] = ["python", "train.py"]
    return array_submit(owner=owner, spec=JobSpec(count=count, **spec), by=owner.get_username(), now=NOON)


def test_each_job_of_an_array_gets_its_index_and_what_they_share(alice: User, enrol: Enrol) -> None:
    enrol(slots=3)
    made = array(alice, 3, env={"SEED": "1"}, timeout_s=60)
    jobs = list(made.jobs.order_by("array_index"))
    assert jobs_dispatch(now=NOON) == 3
    works = [claim(job).work for job in jobs]
    assert [work["array"] for work in works] == [{"index": n, "count": 3} for n in range(3)]
    assert {(tuple(work["command"]), work["env"]["SEED"], work["timeout_s"]) for work in works} == {
        (("python", "train.py"), "1", 60.0)
    }
    assert [job.command for job in jobs] == [[], [], []], "what they run is stored once"


def test_many_jobs_are_made_and_cancelled_together_not_one_by_one(alice: User) -> None:
    many_are_made_and_cancelled(alice, 1_500)


@pytest.mark.slow
def test_ten_thousand_jobs_are_made_and_cancelled_together(alice: User) -> None:
    many_are_made_and_cancelled(alice, 10_000)


def many_are_made_and_cancelled(owner: User, count: int) -> None:
    # SQLite takes some forty jobs or ninety events a statement, PostgreSQL a thousand.
    with CaptureQueriesContext(connection) as queries:
        made = array(owner, count, script="echo " + "x" * 100_000)
    assert len(queries) < 25 + count / 20, len(queries)
    assert made.jobs.count() == count
    assert Event.objects.filter(code="job_submitted").count() == count
    assert len(set(made.jobs.values_list("need_key", flat=True))) == 1
    with CaptureQueriesContext(connection) as queries:
        assert array_cancel(made, by="alice", now=SOON) == count
    assert len(queries) < 25 + count / 50, len(queries)
    assert made.jobs.filter(state="cancelled").count() == count


def test_an_array_is_cancelled_as_a_whole_what_waits_and_what_runs(alice: User, enrol: Enrol) -> None:
    enrol(slots=2)
    made = array(alice, 5)
    jobs_dispatch(now=NOON)
    begun, done = list(made.jobs.filter(state="dispatched").order_by("array_index"))
    claim(begun), claim(done), finish(done)
    assert array_cancel(made, by="alice", now=SOON) == 4
    assert state(begun)[0] == "running" and begun.cancel_requested_by == "alice"
    assert state(done)[0] == "succeeded"
    assert made.jobs.filter(state="cancelled").count() == 3
    finish(begun, "cancelled", 143)
    assert state(begun) == ("cancelled", "cancelled by alice")
    assert array_cancel(made, by="alice", now=SOON) == 0


def test_a_job_comes_after_a_whole_array(alice: User, enrol: Enrol) -> None:
    enrol(slots=2)
    made = array(alice, 2)
    last = submit(alice, after=[made.pk])
    assert state(last)[0] == "deferred" and last.after == [made.pk]
    jobs_dispatch(now=NOON)
    for job in made.jobs.all():
        claim(job), finish(job)
    jobs_dispatch(now=SOON)
    assert state(last)[0] == "dispatched"


def test_an_array_after_a_job_waits_as_a_whole(alice: User, enrol: Enrol) -> None:
    enrol(slots=4)
    first = submit(alice)
    made = array(alice, 3, after=[first.pk])
    assert jobs_dispatch(now=NOON) == 1
    claim(first), finish(first)
    assert jobs_dispatch(now=SOON) == 3
    assert set(made.jobs.values_list("state", flat=True)) == {"dispatched"}


@pytest.mark.parametrize("count", [0, -1, 10_001])
def test_an_array_has_one_to_ten_thousand_jobs(alice: User, count: int) -> None:
    with pytest.raises(Invalid, match="count must be between 1 and 10000"):
        array(alice, count)
    assert not JobArray.objects.exists()


def test_too_many_dependencies_at_once_are_refused_with_the_way_out(alice: User) -> None:
    first, second, third = submit(alice), submit(alice), submit(alice)
    with pytest.raises(Invalid, match="more than 20000 in all") as refused:
        array(alice, 10_000, after=[first.pk, second.pk, third.pk])
    assert "one job in between" in refused.value.hint
    assert not JobArray.objects.exists()


# -- once for a key -----------------------------------------------------------------------------------


def once(owner: User, key: str, **body: Any) -> tuple[Job | JobArray, bool]:
    spec = JobSpec(command=["true"], **body)
    return submit_once(owner=owner, key=key, body=body, spec=spec, by="x", now=NOON)


def test_the_same_key_and_request_make_one_job(alice: User, bob: User) -> None:
    first, fresh = once(alice, "k", name="a")
    again, fresh_again = once(alice, "k", name="a")
    assert (first, fresh, fresh_again) == (again, True, False)
    assert once(bob, "k", name="a")[0] != first, "keys are each person's own"
    with pytest.raises(KeyReused):
        once(alice, "k", name="b")
    made, _ = once(alice, "k2", count=2)
    assert once(alice, "k2", count=2) == (made, False)
    assert Job.objects.count() == 4


def test_of_two_at_the_same_moment_one_makes_the_job_and_both_get_it(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pool.services import submission

    real, looked = submission._made, []

    def late(*args: Any) -> Any:
        looked.append(1)
        if len(looked) == 1:
            once_first.append(
                submit_once(owner=alice, key="k", body={}, spec=JobSpec(command=["true"]), now=NOON)
            )
            return None
        return real(*args)

    once_first: list[Any] = []
    monkeypatch.setattr(submission, "_made", late)
    made, fresh = once(alice, "k")
    assert not fresh and made == once_first[0][0]
    assert Job.objects.count() == 1 == Submission.objects.count()
