"""Jobs: submitted or refused whole, given to one worker, tried again, cancelled, ended once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction

from agent import wire
from core.agents import AgentIdentity
from core.errors import Invalid, StandDown, TransitionRefused
from core.reasons import because
from pool import selectors
from pool.models import Account, Choice, Dispatch, Job, Session, Worker
from pool.services import attempts, submission
from pool.services.accounts import account_create
from pool.services.dispatches import dispatch_withdraw
from pool.services.jobs import candidates, job_take, jobs_dispatch
from pool.services.publish import orders_of
from pool.services.reports import dispatch_claim, dispatch_finish
from pool.services.submission import JobSpec, job_cancel, job_submit
from pool.services.workers import worker_create, worker_drain, worker_lost, worker_offline, worker_slots_set
from pool.states import JobState, WorkerState
from tests.pool.conftest import GIB, NOON

SOON = NOON + timedelta(seconds=30)


def submit(owner: User, *, now: datetime | None = None, **spec: Any) -> Job:
    """Each a millisecond younger than the one before, unless `now` says otherwise."""
    if "script" not in spec:
        spec.setdefault("command", ["python", "train.py"])
    at = now or NOON + timedelta(milliseconds=Job.objects.count())
    return job_submit(owner=owner, spec=JobSpec(**spec), by=owner.get_username(), now=at)


def attempt(job: Job) -> Dispatch:
    return job.attempts.get(number=Job.objects.get(pk=job.pk).attempt)


def identity(worker: Worker) -> AgentIdentity:
    return AgentIdentity(worker_id=worker.pk, epoch=worker.epoch)


def claim(job: Job) -> wire.Claimed:
    row = attempt(job)
    return dispatch_claim(identity=identity(row.worker), dispatch_id=row.pk, now=SOON)


def finish(job: Job, outcome: str = "succeeded", exit_code: int | None = 0, **fields: Any) -> None:
    row = attempt(job)
    post = wire.FinishPost(fence=row.fence, outcome=outcome, exit_code=exit_code, **fields)
    dispatch_finish(identity=identity(row.worker), dispatch_id=row.pk, post=post, now=SOON)


def state(job: Job) -> tuple[str, str]:
    job.refresh_from_db()
    return job.state, job.reason


# -- submitting ---------------------------------------------------------------------------------------


def test_a_submitted_job_waits_and_says_for_what(alice: User, account: Account) -> None:
    job = submit(alice, env={"SEED": "1"}, priority=3)
    assert state(job) == ("queued", "waits for the next choice of a worker")
    assert job.name == "python train.py"
    jobs_dispatch(now=NOON)
    assert state(job) == ("queued", "no worker is enrolled")


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"command": []}, "a command or a script"),
        ({"command": ["a"], "script": "b"}, "a command or a script"),
        ({"script": "  \n"}, "a command or a script"),
        ({"command": [""]}, "the program first"),
        ({"command": ["a\x00"]}, "NUL"),
        ({"script": "x" * 300_000}, "at most 262144"),
        ({"env": {"A-B": "1"}}, "'A-B' is not a variable's name"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"grace_s": -1}, "grace_s"),
        ({"expected_hours": 0}, "expected_hours"),
        ({"gpu_mem_bytes": -1}, "gpu_mem_bytes"),
        ({"priority": 5000}, "priority"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"provider": "aws"}, "'aws' is not one of"),
        ({"provider": "kaggle"}, "there is no such account"),
        ({"instance_ref": "i_nothing"}, "no instance i_nothing of yours"),
    ],
)
def test_what_can_never_run_is_refused_whole(
    alice: User, account: Account, spec: dict[str, Any], why: str
) -> None:
    with pytest.raises(Invalid, match=why):
        submit(alice, **spec)
    assert not Job.objects.exists()


def test_a_job_longer_than_any_session_is_refused_with_the_longest(alice: User) -> None:
    account_create(owner=alice, kind="colab", label="c")
    account_create(owner=alice, kind="kaggle", label="k")
    submit(alice, expected_hours=11)
    with pytest.raises(Invalid, match=r"expects 12 h, and no account here allows more than 11.5 h"):
        submit(alice, expected_hours=12)
    with pytest.raises(Invalid, match=r"more than 8.5 h"):
        submit(alice, expected_hours=11, provider="kaggle")


def test_nobody_runs_anything_on_somebody_elses_instance(alice: User, bob: User, account: Account) -> None:
    worker_create(account=account, name="i_1", instance_ref="i_1", owner=alice)
    submit(alice, instance_ref="i_1")
    with pytest.raises(Invalid, match="of yours"):
        submit(bob, instance_ref="i_1")


# -- choosing -----------------------------------------------------------------------------------------


def test_the_whole_way_of_a_job(alice: User, enrol: Callable[..., Worker]) -> None:
    worker = enrol("w")
    job = submit(alice, script="echo hi", env={"A": "1"}, timeout_s=60)
    assert jobs_dispatch(now=NOON) == 1
    assert state(job) == ("dispatched", "chosen: w (0.0 % used)")
    claimed = claim(job)
    assert claimed.kind == "job"
    assert claimed.work == {
        "job_id": job.pk,
        "attempt": 1,
        "script": "echo hi",
        "env": {"A": "1"},
        "grace_s": 15.0,
        "timeout_s": 60.0,
    }
    assert state(job) == ("running", "w has started it")
    finish(job)
    assert state(job) == ("succeeded", "exit code 0")
    assert (job.exit_code, job.started_at, job.ended_at) == (0, SOON, SOON)
    assert Choice.objects.get(tenant=alice).worker == worker


def test_the_worked_example_on_real_rows(
    alice: User, enrol: Callable[..., Worker], stream: Callable[..., str]
) -> None:
    from pool.services.intake import intake_drain

    kinds = {kind: account_create(owner=alice, kind=kind, label=kind) for kind in ("colab", "kaggle")}
    other = account_create(owner=alice, kind="kaggle", label="second")
    for name, into, hours in [
        ("Colab-1", kinds["colab"], 2.3),
        ("Colab-2", kinds["colab"], 10.8),
        ("Kaggle-1", kinds["kaggle"], 18),
        ("Kaggle-2", other, 25),
    ]:
        worker = enrol(name, into=into, slots=9)
        stream(worker, session_runtime_hours=hours)
        intake_drain(now=NOON)
        if into.kind == "kaggle":  # the week's hours, in a session that has just begun
            Session.objects.filter(worker=worker).update(runtime_s=60)
    jobs = [submit(alice) for _ in range(5)]
    assert jobs_dispatch(now=NOON) == 5
    chosen = [attempt(job).worker.name for job in jobs]
    assert chosen == ["Colab-1", "Kaggle-1", "Colab-1", "Kaggle-1", "Colab-1"]


def test_priority_comes_before_age_and_age_before_luck(alice: User, enrol: Callable[..., Worker]) -> None:
    enrol()
    late = submit(alice, now=NOON)
    early = submit(alice, now=NOON - timedelta(hours=1))
    urgent = submit(alice, priority=5)
    order = []
    for _ in range(3):
        jobs_dispatch(now=SOON)
        (row,) = Dispatch.objects.filter(state="rung")
        order.append(row.job)
        claim(row.job)
        finish(row.job)
    assert order == [urgent, early, late]


def test_a_job_that_cannot_be_placed_holds_nobody_up(
    alice: User, bob: User, enrol: Callable[..., Worker]
) -> None:
    enrol("small", gib=16)
    big = [submit(alice, gpu_mem_bytes=80 * GIB, priority=9) for _ in range(30)]
    small = submit(bob)
    assert jobs_dispatch(now=SOON) == 1
    assert state(small)[0] == "dispatched"
    assert {state(job) for job in big} == {("queued", "no worker with 80 GiB free: the largest has 16 GiB")}


def test_a_busy_pool_says_so_and_takes_the_next_job_when_a_slot_is_free(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    enrol(slots=2)
    first, second, third = (submit(alice) for _ in range(3))
    assert jobs_dispatch(now=NOON) == 2
    assert state(third) == ("queued", "all 1 workers that fit and are safe are busy")
    assert {attempt(job).slot for job in (first, second)} == {0, 1}
    claim(first)
    finish(first)
    assert jobs_dispatch(now=SOON) == 1
    assert attempt(third).slot == attempt(first).slot


def test_a_worker_without_slots_takes_nothing(alice: User, enrol: Callable[..., Worker]) -> None:
    worker = enrol()
    worker_slots_set(worker, 0)
    job = submit(alice)
    assert jobs_dispatch(now=NOON) == 0
    worker_slots_set(worker, 1)
    assert jobs_dispatch(now=NOON) == 1
    assert state(job)[0] == "dispatched"


def test_a_draining_worker_takes_no_jobs_and_is_ordered_to_drain(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    worker = enrol()
    worker_drain(worker, reason=because("operator", note="maintenance"), now=NOON)
    worker_drain(worker, reason=because("operator", note="maintenance"), now=NOON)
    job = submit(alice)
    assert jobs_dispatch(now=NOON) == 0
    assert state(job)[1] == "none of the 1 workers that fit is online"
    assert orders_of([worker.pk]) == {worker.pk: [wire.Order(kind="drain")]}


def test_what_a_draining_worker_has_not_begun_is_given_elsewhere(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    worker = enrol("a", slots=2)
    begun, unheard = submit(alice), submit(alice)
    jobs_dispatch(now=NOON)
    claim(begun)
    worker_drain(worker, reason=because("operator", note="maintenance"), now=NOON)
    assert state(begun)[0] == "running"
    assert state(unheard) == ("queued", "attempt 1 ended early: its worker is draining")
    enrol("b")
    jobs_dispatch(now=SOON)
    assert attempt(unheard).worker.name == "b"


def test_a_job_for_a_sleeping_instance_waits_for_it(
    alice: User, account: Account, enrol: Callable[..., Worker]
) -> None:
    enrol("shared")
    worker_create(account=account, name="i_1", instance_ref="i_1", owner=alice)
    job, other = submit(alice, instance_ref="i_1"), submit(alice)
    jobs_dispatch(now=NOON)
    assert state(job) == ("queued", "instance asleep")
    assert list(selectors.jobs_waiting_for_instances()) == [job]
    assert state(other)[0] == "dispatched"


def test_an_instances_worker_is_never_given_to_others(
    alice: User, bob: User, account: Account, enrol: Callable[..., Worker]
) -> None:
    box = worker_create(account=account, name="i_1", instance_ref="i_1", owner=alice)
    Worker.objects.filter(pk=box.pk).update(state=WorkerState.ONLINE, epoch=1)
    job = submit(bob)
    jobs_dispatch(now=NOON)
    assert state(job) == ("queued", "no worker is enrolled")
    mine = submit(alice, instance_ref="i_1")
    jobs_dispatch(now=NOON)
    assert attempt(mine).worker_id == box.pk


def rings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    rung: list[str] = []
    for module in (attempts, submission):
        monkeypatch.setattr(module, "ring", lambda task, *_: rung.append(task))
    return rung


def test_whatever_makes_a_job_or_a_slot_ready_rings_the_dispatcher(
    alice: User, enrol: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol()
    rung = rings(monkeypatch)
    job = submit(alice)
    assert rung == ["pool.dispatch_tick"]
    jobs_dispatch(now=NOON)
    claim(job)
    assert rung == ["pool.dispatch_tick"]
    finish(job)
    assert rung == ["pool.dispatch_tick"] * 2


# -- one slot, one job --------------------------------------------------------------------------------


def test_two_dispatchers_never_give_one_slot_to_two_jobs(alice: User, enrol: Callable[..., Worker]) -> None:
    """Both have chosen the same worker for another job before either acts: two stale copies."""
    enrol()
    first, second = submit(alice), submit(alice)
    (candidate,) = candidates(instances=set(), now=NOON)
    assert job_take(first, candidate, now=NOON) is not None
    assert job_take(second, candidate, now=NOON) is None
    assert state(second)[0] == "queued"


def test_two_dispatchers_never_give_one_job_twice(alice: User, enrol: Callable[..., Worker]) -> None:
    enrol("a"), enrol("b")
    job = submit(alice)
    stale = Job.objects.get(pk=job.pk)
    one, other = candidates(instances=set(), now=NOON)
    assert job_take(job, one, now=NOON) is not None
    with pytest.raises(TransitionRefused):
        job_take(stale, other, now=NOON)
    assert Dispatch.objects.count() == 1


def test_the_schema_refuses_a_second_job_in_a_slot(alice: User, enrol: Callable[..., Worker]) -> None:
    worker = enrol()
    job = submit(alice)
    jobs_dispatch(now=NOON)
    with pytest.raises(IntegrityError), transaction.atomic():
        Dispatch.objects.create(worker=worker, epoch=1, kind="job", state="rung", slot=attempt(job).slot)


def test_a_worker_that_left_after_the_choice_is_not_given_a_job(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    worker = enrol("w")
    job = submit(alice)
    (candidate,) = candidates(instances=set(), now=NOON)
    worker_offline(worker, reason=because("session_ended"), now=NOON)
    assert job_take(job, candidate, now=NOON) is None
    enrol("w")  # online again, but another epoch
    assert job_take(job, candidate, now=NOON) is None


RACER = """
import sys, django
django.setup()
from django.db import connection
connection.settings_dict["NAME"] = sys.argv[1]
from pool.services.jobs import jobs_dispatch
print("ready", flush=True)
sys.stdin.readline()
print(sum(jobs_dispatch() for _ in range(12)))
"""


@pytest.mark.django_db(transaction=True)
def test_two_dispatcher_processes_race_for_the_same_slots(
    valkey: object, alice: User, enrol: Callable[..., Worker]
) -> None:
    for number in range(6):
        enrol(f"w{number}", slots=5)
    for _ in range(40):
        submit(alice)
    with subprocess.Popen(
        [sys.executable, "-c", RACER, str(connection.settings_dict["NAME"])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings"},
        cwd=Path(__file__).parents[3],
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "ready\n"
        other.stdin.write("go\n")
        other.stdin.flush()
        given = sum(jobs_dispatch() for _ in range(12))
        given += int(other.stdout.readline())
    assert (other.returncode, given) == (0, 30)
    held = list(Dispatch.objects.values_list("worker_id", "slot"))
    assert len(held) == len(set(held)) == 30
    assert Job.objects.filter(state=JobState.DISPATCHED).count() == 30
    assert set(Job.objects.values_list("attempt", flat=True)) == {0, 1}


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
