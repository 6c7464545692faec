"""Verdicts on the rows: who becomes idle, active again, goes to sleep; at once, twice at once, and with stale copies."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from core.models import Chain, Event
from core.transitions import advance
from hibernation.models import Instance, Verdict
from hibernation.reasons import because
from hibernation.services import verdicts
from hibernation.services.instances import instance_keep_awake
from hibernation.services.verdicts import verdict_replay, verdicts_tick
from hibernation.states import InstanceState
from pool.models import Dispatch, Job
from pool.signals import dispatch_finished
from pool.states import DispatchState
from tests.hibernation.rows import T0, at, instance_of, person, post, work_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def alice() -> Any:
    return person()


@pytest.fixture
def instance(alice: Any) -> Instance:
    return instance_of(alice)


def judged(instance: Instance, seconds: float) -> Instance:
    verdicts_tick(at(seconds))
    instance.refresh_from_db()
    return instance


def codes(instance: Instance) -> list[str]:
    """The instance's events, oldest first."""
    return list(Event.objects.filter(subject_id=instance.pk).order_by("id").values_list("code", flat=True))


# -- the road to sleep ------------------------------------------------------------------------------------------------


def test_the_first_idle_reading_makes_it_idle_with_the_time_at_which_it_will_sleep(
    instance: Instance,
) -> None:
    post(instance, (0, 2.0))
    assert judged(instance, 1).state == InstanceState.IDLE
    assert (instance.idle_since, instance.idle_due_at) == (T0, at(180))
    assert codes(instance) == ["idle_detected"]
    assert instance.gpu_util == 2.0
    assert instance.why == "GPU 2.0 % below 5 % since 14:30:00, hibernates at 14:33:00 UTC"


def test_after_the_whole_window_it_goes_to_sleep(instance: Instance) -> None:
    for second in range(0, 181, 30):
        post(instance, (second, 2.0))
        judged(instance, second + 1)
    assert instance.state == InstanceState.HIBERNATING
    chain = Chain.objects.get(subject_id=instance.pk)
    assert chain.kind == "hibernate"
    assert not chain.data["asked"], "activity may still stop it"
    assert str(chain.reason) == "GPU 2.0 % below 5 % since 14:30:00 UTC, for all of 3 minutes"


def test_it_goes_to_sleep_when_it_is_due_and_not_only_with_the_next_reading(instance: Instance) -> None:
    post(instance, *((second, 2.0) for second in range(0, 180, 30)))
    assert judged(instance, 151).state == InstanceState.IDLE
    assert judged(instance, 179.9).state == InstanceState.IDLE
    assert judged(instance, 180).state == InstanceState.HIBERNATING


def test_a_busy_reading_makes_it_active_again_and_forgets_the_window(instance: Instance) -> None:
    post(instance, (0, 2.0))
    judged(instance, 1)
    post(instance, (30, 60.0))
    assert judged(instance, 31).state == InstanceState.RUNNING
    assert (instance.idle_since, instance.idle_due_at, instance.last_active_at) == (None, None, at(30))
    assert codes(instance) == ["idle_detected", "active_again"]
    post(instance, (60, 2.0))
    assert judged(instance, 61).idle_since == at(60)


def test_readings_that_come_in_one_late_batch_are_judged_by_their_own_times(instance: Instance) -> None:
    post(instance, (0, 2.0))
    judged(instance, 1)
    post(instance, (30, 2.0), (60, 70.0), (90, 2.0), (120, 2.0), now=at(121))
    assert judged(instance, 122).idle_since == at(90)


def test_silence_is_activity(instance: Instance) -> None:
    post(instance, (0, 2.0))
    judged(instance, 1)
    assert judged(instance, 70).state == InstanceState.IDLE
    assert judged(instance, 70.1).state == InstanceState.RUNNING
    assert instance.why.startswith("the last reading is from 14:30:00")
    post(instance, *((second, 2.0) for second in range(180, 301, 30)))
    assert judged(instance, 301).idle_since == at(180), "what lay between is unknown"


def test_silence_through_the_whole_window_never_leads_to_sleep(instance: Instance) -> None:
    post(instance, (0, 2.0))
    judged(instance, 1)
    assert judged(instance, 600).state == InstanceState.RUNNING
    assert not Chain.objects.exists()


def test_an_unknown_reading_is_activity(instance: Instance) -> None:
    post(instance, (0, 2.0))
    judged(instance, 1)
    post(instance, (30, None))
    assert judged(instance, 31).state == InstanceState.RUNNING


def test_readings_of_an_earlier_epoch_do_not_count(instance: Instance) -> None:
    post(instance, *((second, 2.0) for second in range(0, 181, 30)))
    Instance.objects.filter(pk=instance.pk).update(epoch=2)
    assert judged(instance, 181).state == InstanceState.RUNNING
    assert instance.verdict["code"] == "awake_no_reading"


def test_a_reading_that_its_last_box_sent_late_does_not_count(instance: Instance) -> None:
    post(instance, (0, 2.0))
    judged(instance, 1)
    post(instance, (30, 2.0))
    Instance.objects.filter(pk=instance.pk).update(epoch=2)
    assert judged(instance, 31).verdict["code"] == "awake_no_reading"


# -- what holds it awake ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Dispatch.Kind.JOB, *Dispatch.Kind.values[1:]])
@pytest.mark.parametrize("state", [DispatchState.RUNG, DispatchState.CLAIMED])
def test_work_on_it_holds_it_awake(instance: Instance, kind: str, state: str) -> None:
    work_of(instance, kind=kind, state=state)
    post(instance, *((second, 2.0) for second in range(0, 601, 30)))
    assert judged(instance, 601).state == InstanceState.RUNNING
    assert instance.verdict["code"] == "awake_working"


def test_work_that_was_taken_back_but_may_still_run_there_holds_it_awake(instance: Instance) -> None:
    work_of(instance, state=DispatchState.WITHDRAWN)
    post(instance, (0, 2.0))
    assert judged(instance, 1).state == InstanceState.RUNNING


def test_a_job_that_waits_for_it_holds_it_awake(instance: Instance) -> None:
    Job.objects.create(owner=instance.owner, name="train", state="queued", instance_ref=instance.pk)
    post(instance, (0, 2.0))
    assert judged(instance, 1).state == InstanceState.RUNNING


def test_its_window_begins_when_the_work_ends(instance: Instance) -> None:
    work = work_of(instance)
    post(instance, *((second, 2.0) for second in range(0, 601, 30)))
    judged(instance, 601)
    Dispatch.objects.filter(pk=work.pk).update(state=DispatchState.SUCCEEDED, finished_at=at(610))
    dispatch_finished.send(sender=Dispatch, dispatch=work, now=at(610))
    assert judged(instance, 611).state == InstanceState.IDLE
    assert instance.idle_since == at(610)


def test_keep_awake_takes_it_out_of_its_window_and_a_full_one_follows(instance: Instance) -> None:
    post(instance, (0, 2.0))
    judged(instance, 1)
    instance_keep_awake(instance, minutes=10, by="alice", now=at(20))
    for second in range(30, 631, 30):
        post(instance, (second, 2.0))
        judged(instance, second + 1)
        assert instance.state == (InstanceState.RUNNING if second < 620 else InstanceState.IDLE)
    assert instance.idle_since == at(620)


def test_a_policy_that_is_switched_off_keeps_it_awake(alice: Any) -> None:
    instance = instance_of(alice, config={"enabled": False})
    post(instance, *((second, 2.0) for second in range(0, 601, 30)))
    assert judged(instance, 601).state == InstanceState.RUNNING


def test_after_a_start_it_stays_awake_for_the_minimum(alice: Any) -> None:
    instance = instance_of(alice, awake_since=T0)
    post(instance, *((second, 2.0) for second in range(0, 601, 30)))
    assert judged(instance, 599).state == InstanceState.RUNNING
    assert judged(instance, 600).state == InstanceState.IDLE, "without another reading"
    assert instance.idle_since == at(600)


# -- verdicts as rows ---------------------------------------------------------------------------------------------------


def test_a_verdict_is_kept_when_what_it_says_changes_and_when_it_leads_to_sleep(instance: Instance) -> None:
    for second, util in (
        (0, 80.0),
        (30, 70.0),
        (60, 2.0),
        (90, 2.0),
        (120, 2.0),
        (150, 2.0),
        (180, 2.0),
        (210, 2.0),
    ):
        post(instance, (second, util))
        judged(instance, second + 1)
    judged(instance, 240)
    kept = list(Verdict.objects.filter(instance=instance).order_by("id").values_list("reason_code", "idle"))
    assert kept == [("awake_gpu_busy", False), ("idle_counting", True), ("idle_over", True)]
    assert instance.state == InstanceState.HIBERNATING


def test_a_kept_verdict_replays_to_the_same_verdict(instance: Instance) -> None:
    work = work_of(instance)
    post(instance, (-30, 50.0), (0, 2.0))
    judged(instance, 1)
    Dispatch.objects.filter(pk=work.pk).delete()
    for second in range(30, 241, 30):
        post(instance, (second, 2.0), sessions={"ssh": 1})
        judged(instance, second + 1)
    rows = list(Verdict.objects.filter(instance=instance))
    assert {row.reason_code for row in rows} == {"awake_working", "idle_counting", "idle_over"}
    for row in rows:
        again = verdict_replay(row)
        assert (again.idle, dict(again.reason.params)) == (row.idle, row.reason_params)
        assert again.reason.code == row.reason_code
    slept = next(row for row in rows if row.reason_code == "idle_over")
    assert len(slept.samples) >= 7, "the whole window is kept, not its last reading"


def test_a_verdict_rests_on_the_whole_window_before_anybody_is_put_to_sleep(instance: Instance) -> None:
    post(instance, (0, 2.0))
    judged(instance, 1)
    # A reading of the past that arrives behind the verdict's back, as from a second intake.
    post(instance, *((second, 2.0) for second in (30, 60, 90, 120, 150)))
    judged(instance, 151)
    instance.worker.samples.filter(at=at(60)).update(gpu_util=90)
    post(instance, (180, 2.0))
    assert judged(instance, 181).state == InstanceState.IDLE
    assert instance.idle_since == at(90)


# -- two at once, stale copies --------------------------------------------------------------------------------------------


def test_two_ticks_at_once_judge_each_instance_once(instance: Instance) -> None:
    post(instance, (0, 2.0))
    assert [verdicts_tick(at(1)), verdicts_tick(at(1))] == [1, 0]
    assert codes(instance) == ["idle_detected"]


def test_of_two_ticks_that_found_the_same_instance_one_judges_it(instance: Instance) -> None:
    post(instance, (0, 2.0))
    others: list[int] = []

    def faster(execute: Any, sql: str, *args: Any) -> Any:
        if sql.startswith("UPDATE") and not others:
            others.append(-1)
            others[0] = verdicts_tick(at(1))
        return execute(sql, *args)

    with connection.execute_wrapper(faster):
        assert verdicts_tick(at(1)) == 0
    assert others == [1]


def test_a_reading_that_arrives_while_it_is_judged_is_not_forgotten(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(instance, (0, 2.0))
    real = verdicts.readings_whole

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        post(instance, (30, 90.0))
        monkeypatch.setattr(verdicts, "readings_whole", real)
        return found

    monkeypatch.setattr(verdicts, "readings_whole", meanwhile)
    verdicts_tick(at(31))
    assert judged(instance, 31).state == InstanceState.RUNNING, "the next tick judges it again at once"


def test_an_instance_that_moved_meanwhile_is_left_alone(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(instance, *((second, 2.0) for second in range(0, 181, 30)))
    real = verdicts.idle.verdict

    def meanwhile(*args: Any) -> Any:
        row = Instance.objects.get(pk=instance.pk)
        if row.state == InstanceState.RUNNING:
            advance(
                row, InstanceState.HIBERNATING, reason=because("schedule_sleeps", at="18:00 UTC"), now=at(181)
            )
        return real(*args)

    monkeypatch.setattr(verdicts.idle, "verdict", meanwhile)
    assert verdicts_tick(at(181)) == 1
    instance.refresh_from_db()
    assert instance.state == InstanceState.HIBERNATING
    assert not Chain.objects.exists(), "only whoever moved it starts the chain"


def test_one_instance_that_cannot_be_judged_does_not_stop_the_others(alice: Any) -> None:
    broken, sound = instance_of(alice, name="broken"), instance_of(alice, name="sound")
    Instance.objects.filter(pk=broken.pk).update(config={"auto_hibernation": {"from": "the future"}})
    for instance in (broken, sound):
        post(instance, *((second, 2.0) for second in range(0, 181, 30)))
    assert judged(sound, 181).state == InstanceState.HIBERNATING
    broken.refresh_from_db()
    assert broken.state == InstanceState.RUNNING, "what cannot be read is not put to sleep"


def test_an_instance_whose_last_restore_was_incomplete_is_never_put_to_sleep(alice: Any) -> None:
    instance = instance_of(alice, restore_incomplete=True)
    for second in range(0, 301, 30):
        post(instance, (second, 2.0))
        judged(instance, second + 1)
    assert instance.state == InstanceState.IDLE
    assert Verdict.objects.filter(instance=instance).count() == 2, "and does not fill the table saying so"


# -- cost -----------------------------------------------------------------------------------------------------------------


def test_asleep_or_not_due_instances_cost_a_tick_nothing(alice: Any, instance: Instance) -> None:
    post(instance, (0, 2.0))
    judged(instance, 1)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert verdicts_tick(at(2)) == 0
    assert len(queries) == 1


def test_the_number_of_queries_does_not_grow_with_the_instances(alice: Any) -> None:
    def queries_of(count: int) -> int:
        instances = [instance_of(alice, name=f"{count}-{n}") for n in range(count)]
        for instance in instances:
            post(instance, (0, 50.0))
        verdicts_tick(at(1))
        for instance in instances:
            post(instance, (30, 50.0))
        with CaptureQueriesContext(connection) as queries:
            verdicts_tick(at(31))
        for instance in instances:
            instance.refresh_from_db()
            assert instance.last_active_at == at(30)
        return len(queries)

    assert queries_of(2) == queries_of(12)


def test_new_readings_update_their_instances_in_one_statement(alice: Any) -> None:
    instances = [instance_of(alice, name=f"{n}") for n in range(5)]
    for instance in instances:
        post(instance, (0, 10.0))
    samples = [instance.worker.samples.get() for instance in instances]
    with CaptureQueriesContext(connection) as queries:
        assert verdicts.samples_seen(samples, now=at(1)) == 5
    assert len(queries) == 1
