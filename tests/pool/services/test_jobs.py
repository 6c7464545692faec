"""Jobs: submitted or refused whole, given to one worker, tried again, cancelled, ended once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction

from agent import wire
from core.errors import Invalid, TransitionRefused
from core.reasons import because
from pool import selectors
from pool.models import Account, Choice, Dispatch, Job, Worker
from pool.select import Need
from pool.services import attempts, submission
from pool.services.accounts import account_create
from pool.services.bell import DISPATCH_TICK
from pool.services.books import Booking, books_write
from pool.services.choosing import workers_in_turn
from pool.services.jobs import job_take, jobs_dispatch
from pool.services.publish import orders_of
from pool.services.standings import standings_expire
from pool.services.workers import worker_create, worker_drain, worker_offline, worker_slots_set
from pool.states import JobState, WorkerState
from pool.usage import limits_of
from tests.pool.conftest import GIB, NOON
from tests.pool.services.jobs import SOON, attempt, claim, finish, state, submit

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
        "owner": str(alice.pk),
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
        if into.kind == "kaggle":  # the week's hours, in sessions before this one
            stretch = (NOON - timedelta(hours=hours), NOON)
            books_write([Booking(account_id=into.pk, rule=limits_of(into).week, stretch=stretch)])
            hours = 0
        stream(worker, session_runtime_hours=hours)
        intake_drain(now=NOON)
    standings_expire([kinds["kaggle"].pk, other.pk])
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
        monkeypatch.setattr(module, "dispatcher_ring", lambda: rung.append(DISPATCH_TICK))
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
    (chosen,) = workers_in_turn(Need(tenant_id=alice.pk), now=NOON)
    assert job_take(first, chosen, now=NOON) is not None
    assert job_take(second, chosen, now=NOON) is None
    assert state(second)[0] == "queued"


def test_two_dispatchers_never_give_one_job_twice(alice: User, enrol: Callable[..., Worker]) -> None:
    enrol("a"), enrol("b")
    job = submit(alice)
    stale = Job.objects.get(pk=job.pk)
    one, other = workers_in_turn(Need(tenant_id=alice.pk), now=NOON, limit=2)
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
    (chosen,) = workers_in_turn(Need(tenant_id=alice.pk), now=NOON)
    worker_offline(worker, reason=because("session_ended"), now=NOON)
    assert job_take(job, chosen, now=NOON) is None
    enrol("w")  # online again, but another epoch
    assert job_take(job, chosen, now=NOON) is None


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
