"""Schedules on the rows: kept once each, in local time, caught up after an outage, and never over somebody's work."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from core.models import Chain, Event
from hibernation.models import Instance, Schedule
from hibernation.policy import PolicyInvalid
from hibernation.services.instances import instance_delete
from hibernation.services.policies import config_set, policy_resolved
from hibernation.services.schedules import schedule_set, schedules_tick
from hibernation.states import InstanceState
from pool.models import Dispatch
from tests.hibernation.rows import asleep_of, instance_of, person, work_of

pytestmark = pytest.mark.django_db

SAO_PAULO = "America/Sao_Paulo"
WEEKDAYS = [0, 1, 2, 3, 4]


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


MONDAY_8 = utc(2026, 11, 23, 11)
MONDAY_9, MONDAY_18 = utc(2026, 11, 23, 12), utc(2026, 11, 23, 21)
TUESDAY_9, TUESDAY_18 = utc(2026, 11, 24, 12), utc(2026, 11, 24, 21)


@pytest.fixture
def alice() -> Any:
    return person("alice")


def office(instance: Instance, *, now: datetime = MONDAY_8, **changes: Any) -> Instance:
    """09:00 to 18:00 in São Paulo, every day."""
    times = {"wake_time": "09:00", "sleep_time": "18:00", "timezone": SAO_PAULO, **changes}
    schedule_set(instance, **times, by="alice", now=now)
    return instance


def kept(instance: Instance, now: datetime) -> Instance:
    schedules_tick(now)
    instance.refresh_from_db()
    return instance


def moments(instance: Instance) -> tuple[datetime | None, datetime | None]:
    row = Schedule.objects.get(instance=instance)
    return row.next_wake_at, row.next_sleep_at


def chains(instance: Instance) -> list[str]:
    return list(
        Chain.objects.filter(subject_id=instance.pk).order_by("created_at").values_list("kind", flat=True)
    )


def notes(instance: Instance) -> list[str]:
    return [
        str(event.reason)
        for event in Event.objects.filter(subject_id=instance.pk, code="schedule_kept_otherwise")
    ]


# -- setting ------------------------------------------------------------------------------------------------------------


def test_a_schedule_is_local_time_and_its_next_moments_are_utc(alice: Any) -> None:
    instance = office(instance_of(alice))
    assert moments(instance) == (MONDAY_9, MONDAY_18)
    policy, _ = policy_resolved(instance)
    assert (policy.wake_method, policy.schedule.zone) == ("scheduled", SAO_PAULO)
    assert instance.config["auto_hibernation"]["schedule"]["weekdays"] == [0, 1, 2, 3, 4, 5, 6]


def test_setting_a_schedule_keeps_the_rest_of_the_configuration(alice: Any) -> None:
    instance = office(instance_of(alice, config={"gpu_usage_threshold": 7}))
    assert instance.config["auto_hibernation"]["gpu_usage_threshold"] == 7


def test_a_schedule_without_times_is_no_schedule(alice: Any) -> None:
    instance = office(instance_of(alice))
    office(instance, wake_time=None, sleep_time=None)
    assert moments(instance) == (None, None)
    assert policy_resolved(instance).policy.wake_method == "manual"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"timezone": "Brazil/Atlantis"}, "is not a time zone"),
        ({"wake_time": "25:00"}, "must be a time as HH:MM"),
        ({"weekdays": [9]}, "must list days"),
        ({"weekdays": []}, "must list days"),
        ({"sleep_time": "09:00"}, "wake_time and sleep_time are both 09:00"),
    ],
)
def test_a_wrong_schedule_is_refused_and_the_old_one_stays(
    alice: Any, changes: dict[str, Any], sentence: str
) -> None:
    instance = office(instance_of(alice))
    with pytest.raises(PolicyInvalid, match=sentence):
        office(instance, **changes)
    assert moments(instance) == (MONDAY_9, MONDAY_18)


def test_a_change_of_something_else_does_not_swallow_a_moment_that_is_due(alice: Any) -> None:
    instance = office(asleep_of(alice))
    config = {"auto_hibernation": {**instance.config["auto_hibernation"], "gpu_usage_threshold": 9}}
    config_set(instance, config, by="alice", now=MONDAY_9)
    assert kept(instance, MONDAY_9).state == InstanceState.WAKING


# -- waking -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [InstanceState.HIBERNATED, InstanceState.DELETED])
def test_it_wakes_at_its_time_and_not_before(alice: Any, state: str) -> None:
    instance = office(asleep_of(alice, state=state, reason_code="paused_long_enough"))
    assert kept(instance, utc(2026, 11, 23, 11, 59, 59)).state == state
    assert kept(instance, MONDAY_9).state == InstanceState.WAKING
    assert chains(instance) == ["wake"]
    assert str(instance.reason) == "its schedule: awake from 09:00 America/Sao_Paulo"
    assert moments(instance) == (TUESDAY_9, MONDAY_18)


def test_two_ticks_at_once_wake_it_once(alice: Any) -> None:
    instance = office(asleep_of(alice))
    schedules_tick(MONDAY_9)
    schedules_tick(MONDAY_9)
    assert chains(instance) == ["wake"]


def test_a_stale_copy_of_the_row_does_not_act_again(alice: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = office(asleep_of(alice))
    real = Schedule.objects.all().__class__.get

    def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
        row = real(self, *args, **kwargs)
        if isinstance(row, Schedule):
            monkeypatch.undo()
            schedules_tick(MONDAY_9)  # somebody else is faster
            Instance.objects.filter(pk=instance.pk).update(state=InstanceState.HIBERNATED)
            Chain.objects.all().delete()
        return row

    monkeypatch.setattr(Schedule.objects.all().__class__, "get", slow)
    schedules_tick(MONDAY_9)
    assert chains(instance) == []


def test_one_that_is_awake_already_stays_so(alice: Any) -> None:
    instance = office(instance_of(alice))
    assert kept(instance, MONDAY_9).state == InstanceState.RUNNING
    assert notes(instance) == ["its schedule, awake from 09:00 America/Sao_Paulo: it is running"]
    assert moments(instance)[0] == TUESDAY_9


def test_one_that_is_on_its_way_to_sleep_is_woken_as_soon_as_it_sleeps(alice: Any) -> None:
    instance = office(asleep_of(alice))
    Instance.objects.filter(pk=instance.pk).update(state=InstanceState.HIBERNATING)
    assert kept(instance, MONDAY_9).state == InstanceState.HIBERNATING
    Instance.objects.filter(pk=instance.pk).update(state=InstanceState.HIBERNATED)
    assert kept(instance, utc(2026, 11, 23, 12, 0, 15)).state == InstanceState.WAKING


def test_one_that_its_owner_gave_up_is_not_woken(alice: Any) -> None:
    instance = office(asleep_of(alice))
    instance_delete(instance, discard=False, by="alice")
    assert kept(instance, MONDAY_9).state == InstanceState.DELETED
    assert chains(instance) == []


def test_one_whose_box_was_lost_waits_for_a_person(alice: Any) -> None:
    instance = office(asleep_of(alice, state=InstanceState.LOST))
    assert kept(instance, MONDAY_9).state == InstanceState.LOST
    assert notes(instance) == ["its schedule, awake from 09:00 America/Sao_Paulo: it is lost"]


def test_weekdays_are_those_of_the_local_calendar(alice: Any) -> None:
    friday_evening = utc(2026, 11, 20, 22)
    instance = office(asleep_of(alice), now=friday_evening, weekdays=WEEKDAYS)
    assert moments(instance) == (MONDAY_9, MONDAY_18)
    assert kept(instance, utc(2026, 11, 22, 15)).state == InstanceState.HIBERNATED


# -- sleeping -----------------------------------------------------------------------------------------------------------


def test_it_goes_to_sleep_at_its_time_without_waiting_for_a_window(alice: Any) -> None:
    instance = office(instance_of(alice))
    assert kept(instance, MONDAY_18).state == InstanceState.HIBERNATING
    assert str(instance.reason) == "its schedule: asleep from 18:00 America/Sao_Paulo"
    assert chains(instance) == ["hibernate"]


def test_work_is_not_cut_off_by_the_sleep_time(alice: Any) -> None:
    instance = office(instance_of(alice))
    work_of(instance, kind=Dispatch.Kind.JOB)
    assert kept(instance, MONDAY_18).state == InstanceState.RUNNING
    (note,) = notes(instance)
    assert note.startswith(
        "asleep from 18:00 America/Sao_Paulo by its schedule, but work on it is not finished: job d_"
    )
    assert moments(instance)[1] == TUESDAY_18, "the idle verdict sees to it from here on"


def test_a_hold_and_a_fresh_start_outweigh_the_sleep_time(alice: Any) -> None:
    held = office(instance_of(alice, name="held", keep_awake_until=utc(2026, 11, 23, 22)))
    fresh = office(instance_of(alice, name="fresh", awake_since=utc(2026, 11, 23, 20, 55)))
    fresh.worker.samples.create(epoch=1, at=utc(2026, 11, 23, 20, 59, 50), gpu_util=1.0)
    assert kept(held, MONDAY_18).state == InstanceState.RUNNING
    fresh.refresh_from_db()
    assert fresh.state == InstanceState.RUNNING
    assert "keep awake until 22:00:00 UTC" in notes(held)[0]
    assert "it stays awake for at least 10 minutes after a start" in notes(fresh)[0]


def test_a_busy_gpu_outweighs_the_sleep_time_and_an_unknown_one_does_not(alice: Any) -> None:
    busy, unknown = (office(instance_of(alice, name=name)) for name in ("busy", "unknown"))
    busy.worker.samples.create(epoch=1, at=utc(2026, 11, 23, 20, 59, 50), gpu_util=90.0)
    unknown.worker.samples.create(epoch=1, at=utc(2026, 11, 23, 20, 59, 50), gpu_util=None)
    assert kept(busy, MONDAY_18).state == InstanceState.RUNNING
    unknown.refresh_from_db()
    assert unknown.state == InstanceState.HIBERNATING


# -- outages --------------------------------------------------------------------------------------------------------------


def test_a_wake_that_was_missed_is_done_late_and_once(alice: Any) -> None:
    instance = office(asleep_of(alice))
    assert kept(instance, utc(2026, 11, 25, 14)).state == InstanceState.WAKING, (
        "two days later, inside the window"
    )
    assert chains(instance) == ["wake"]
    assert moments(instance) == (utc(2026, 11, 26, 12), utc(2026, 11, 25, 21))


def test_a_wake_whose_window_is_over_is_not_done_at_all(alice: Any) -> None:
    instance = office(asleep_of(alice))
    assert kept(instance, utc(2026, 11, 23, 23)).state == InstanceState.HIBERNATED
    assert chains(instance) == []
    assert moments(instance) == (TUESDAY_9, TUESDAY_18)


def test_a_sleep_that_a_later_wake_has_overtaken_is_skipped(alice: Any) -> None:
    instance = office(instance_of(alice), now=utc(2026, 11, 23, 13))
    assert moments(instance) == (TUESDAY_9, MONDAY_18)
    assert kept(instance, utc(2026, 11, 24, 13)).state == InstanceState.RUNNING
    assert chains(instance) == []


def test_a_sleep_that_was_missed_is_done_late(alice: Any) -> None:
    instance = office(instance_of(alice))
    assert kept(instance, utc(2026, 11, 24, 3)).state == InstanceState.HIBERNATING


def test_what_fails_in_the_middle_is_done_again_whole(alice: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = office(asleep_of(alice))

    def dies(*args: Any, **kwargs: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("hibernation.services.schedules.instance_wake", dies)
        schedules_tick(MONDAY_9)
    assert moments(instance) == (MONDAY_9, MONDAY_18), "the moment was not taken without its effect"
    assert kept(instance, utc(2026, 11, 23, 12, 0, 15)).state == InstanceState.WAKING


def test_a_policy_that_was_switched_off_meanwhile_keeps_nothing(alice: Any) -> None:
    instance = office(asleep_of(alice))
    Instance.objects.filter(pk=instance.pk).update(config={"auto_hibernation": {"enabled": False}})
    assert kept(instance, MONDAY_9).state == InstanceState.HIBERNATED
    assert moments(instance) == (None, None)


def test_the_clocks_change_and_nine_stays_nine(alice: Any) -> None:
    instance = office(asleep_of(alice), timezone="Europe/Paris", now=utc(2026, 3, 28, 9))
    assert moments(instance)[0] == utc(2026, 3, 29, 7), "the first morning of summer time"
