"""Every waiting job says why and what would change it; thousands of like jobs are told in one row."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from config.logs import Json
from core.errors import Invalid
from pool.models import Account, Job, Waiting, Worker
from pool.reasons import REMEDIES, remedy_of
from pool.services.jobs import jobs_dispatch
from pool.services.labels import worker_labels_set
from pool.states import JobState
from tests.pool.conftest import GIB, NOON
from tests.pool.services.jobs import SOON, attempt, claim, finish, state, submit


def queue(owner: User, how_many: int, **fields: object) -> None:
    Job.objects.bulk_create(
        Job(
            owner=owner,
            name="j",
            command=["true"],
            state=JobState.QUEUED,
            queued_at=NOON + timedelta(seconds=number),
            **fields,
        )
        for number in range(how_many)
    )


def statements(now: object = NOON) -> int:
    with CaptureQueriesContext(connection) as queries:
        jobs_dispatch(now=now)
    return len(queries)


def test_like_jobs_wait_in_one_row_and_cost_no_statement_each(alice: User, account: Account) -> None:
    queue(alice, 3)
    few = statements()
    queue(alice, 300)
    assert statements(NOON + timedelta(seconds=20)) <= few
    assert Waiting.objects.count() == 1
    assert {job.reason for job in Job.objects.select_related("waiting")} == {"no worker is enrolled"}


def test_the_reason_and_what_would_change_it(alice: User, enrol: Callable[..., Worker]) -> None:
    enrol("w", gib=16)
    big, labelled, long = (
        submit(alice, gpu_mem_bytes=80 * GIB),
        submit(alice, labels={"gpu": "a100"}),
        submit(alice, provider="local"),
    )
    jobs_dispatch(now=NOON)
    assert state(big)[1] == "no worker with 80 GiB free: the largest has 16 GiB"
    assert big.remedy == "enrol a worker with 80 GiB, or ask for at most 16 GiB"
    assert state(labelled)[1] == "no worker that fits has the labels gpu=a100"
    assert labelled.remedy == "give a worker the labels gpu=a100, or ask for fewer"
    assert state(long)[0] == "dispatched"
    assert long.remedy == ""


def test_what_waits_in_the_same_line_has_the_reason_from_its_first_moment(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    submit(alice)
    jobs_dispatch(now=NOON)
    assert state(submit(alice))[1] == "no worker is enrolled"


def test_a_line_is_judged_again_after_a_while_and_not_in_every_run(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    job = submit(alice, gpu_mem_bytes=80 * GIB)
    jobs_dispatch(now=NOON)
    enrol("w", gib=16)
    jobs_dispatch(now=NOON + timedelta(seconds=5))
    assert state(job)[1] == "no worker is enrolled"
    jobs_dispatch(now=NOON + timedelta(seconds=10))
    assert state(job)[1] == "no worker with 80 GiB free: the largest has 16 GiB"


def test_the_reason_goes_with_the_last_job_of_its_line(alice: User, enrol: Callable[..., Worker]) -> None:
    job = submit(alice)
    jobs_dispatch(now=NOON)
    assert Waiting.objects.count() == 1
    enrol("w")
    assert jobs_dispatch(now=SOON) == 1
    assert not Waiting.objects.exists()
    assert state(job)[1] == "chosen: w (0.0 % used)"


def test_a_line_of_which_some_were_placed_is_told_at_once_why_the_others_wait(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    first, second = submit(alice), submit(alice)
    jobs_dispatch(now=NOON)
    enrol("w")
    jobs_dispatch(now=NOON + timedelta(seconds=1))
    assert state(first)[0] == "dispatched"
    assert state(second)[1] == "all 1 workers that fit and are safe are busy"


def test_a_label_that_is_set_lets_the_job_start(
    alice: User, enrol: Callable[..., Worker], django_capture_on_commit_callbacks: Callable[..., object]
) -> None:
    worker = enrol("w")
    enrol("other")
    job = submit(alice, labels={"disk": "nvme", "gpu": "a100"})
    worker_labels_set(worker, {"disk": "nvme"}, by="alice")
    assert jobs_dispatch(now=NOON) == 0
    worker_labels_set(worker, {"disk": "nvme", "gpu": "a100", "site": "x"}, by="alice")
    assert jobs_dispatch(now=NOON) == 1
    assert attempt(job).worker == worker


def test_labels_that_are_none_are_refused_whole(alice: User, enrol: Callable[..., Worker]) -> None:
    with pytest.raises(Invalid, match="GPU"):
        submit(alice, labels={"GPU": "x"})
    with pytest.raises(Invalid, match="has no value"):
        worker_labels_set(enrol(), {"gpu": "a|b"})
    assert not Job.objects.exists()


def test_jobs_of_one_person_do_not_starve_anothers(
    alice: User, bob: User, enrol: Callable[..., Worker]
) -> None:
    enrol(slots=2)
    queue(alice, 1_000)
    late = submit(bob, now=NOON + timedelta(hours=5))
    assert jobs_dispatch(now=NOON + timedelta(hours=6)) == 2
    assert state(late)[0] == "dispatched", "one slot each"
    claim(late)
    finish(late)
    another = submit(bob, now=NOON + timedelta(hours=7))
    assert jobs_dispatch(now=NOON + timedelta(hours=8)) == 1
    assert state(another)[0] == "dispatched", "Alice has one on a worker, Bob none"


def test_a_run_gives_only_so_many_and_rings_for_the_next(
    alice: User, enrol: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[int] = []
    monkeypatch.setattr("pool.services.jobs.dispatcher_ring", lambda: rung.append(1))
    enrol(slots=9)
    queue(alice, 9)
    assert jobs_dispatch(now=NOON, at_most=5) == 5
    assert rung
    assert jobs_dispatch(now=NOON) == 4


def test_a_job_whose_need_was_changed_stands_in_another_line(alice: User) -> None:
    job = submit(alice)
    before = Job.objects.get(pk=job.pk).need_key
    Job.objects.filter(pk=job.pk).update(priority=7)
    assert Job.objects.get(pk=job.pk).need_key != before
    assert before == f"{alice.pk}/0/0////"


def test_every_remedy_belongs_to_a_reason_and_needs_nothing_else() -> None:
    from core.reasons import catalogue

    for code in REMEDIES:
        assert code in catalogue()
        assert remedy_of(code) in catalogue()
    assert remedy_of("job_submitted") == ""


def test_each_decision_is_a_line_and_has_fields_where_logs_are_json(
    alice: User, enrol: Callable[..., Worker], caplog: pytest.LogCaptureFixture
) -> None:
    enrol("w")
    job, behind = submit(alice), submit(alice, gpu_mem_bytes=80 * GIB)
    with caplog.at_level(logging.INFO, logger="pool"):
        jobs_dispatch(now=NOON)
    lines = [
        json.loads(Json().format(record))
        for record in caplog.records
        if record.getMessage().startswith("select ")
    ]
    chosen, waits = sorted(lines, key=lambda line: "waits" in line["message"])
    assert chosen["message"] == f"select tenant={alice.pk} job={job.pk} attempt=1 -> local worker=w (0.0%)"
    assert chosen["select"] == {
        "tenant": alice.pk,
        "job": job.pk,
        "attempt": 1,
        "provider": "local",
        "worker": "w",
        "percent": 0.0,
    }
    assert waits["message"] == f"select tenant={alice.pk} waits: {state(behind)[1]}"
    assert (waits["select"]["tenant"], waits["select"]["reason"]) == (alice.pk, "no_worker_with_memory")
