"""Policies: every wrong value gets its sentence, every field comes from the innermost level that names it."""

from __future__ import annotations

from datetime import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibernation import policy as p
from hibernation.policy import Policy, PolicyInvalid, parse, resolve
from hibernation.schedule_times import EVERY_DAY, Times
from hibernation.states import INSTANCE, InstanceState

DESIGN = {
    "auto_hibernation": {
        "enabled": True,
        "pause_after_idle_minutes": 3,
        "delete_after_pause_minutes": 30,
        "gpu_usage_threshold": 5,
        "check_interval_seconds": 30,
        "wake_method": "manual",
        "schedule": {
            "wake_time": "09:00",
            "sleep_time": "18:00",
            "timezone": "America/Sao_Paulo",
            "weekdays": [0, 1, 2, 3, 4, 5, 6],
        },
    }
}


def said(**fields: Any) -> dict[str, Any]:
    return {"auto_hibernation": fields}


def test_the_configuration_of_the_design_is_read_as_it_stands() -> None:
    assert resolve(instance=parse(DESIGN)).policy == Policy(
        schedule=Times(time(9), time(18), "America/Sao_Paulo", EVERY_DAY)
    )


def test_without_any_level_the_defaults_are_the_designs() -> None:
    body = p.to_json(resolve().policy)["auto_hibernation"]
    assert {key: body[key] for key in DESIGN["auto_hibernation"] if key != "schedule"} == {
        key: value for key, value in DESIGN["auto_hibernation"].items() if key != "schedule"
    }
    assert body["signals"] == dict.fromkeys(p.Signals.__dataclass_fields__)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ([], "must be a JSON object, not []"),
        ({"enabled": True}, 'enabled belongs inside "auto_hibernation"'),
        ({"sleep": 1}, "sleep is not a setting; known here: auto_hibernation"),
        ({"auto_hibernation": 3}, "auto_hibernation must be a JSON object, not 3"),
        (
            said(pause=3),
            "auto_hibernation.pause is not a setting; known here: enabled, pause_after_idle_minutes",
        ),
        (said(pause_after_idle_minutes=0), "must be more than 0 and at most 720, not 0"),
        (said(pause_after_idle_minutes=-1), "must be more than 0 and at most 720, not -1"),
        (said(pause_after_idle_minutes="3"), 'must be a number, not "3"'),
        (said(pause_after_idle_minutes=True), "must be a number, not true"),
        (said(pause_after_idle_minutes=float("nan")), "must be a number, not NaN"),
        (said(pause_after_idle_minutes=None), "must be a number, not null"),
        (said(delete_after_pause_minutes=0), "must be more than 0"),
        (said(gpu_usage_threshold=300), "gpu_usage_threshold must be more than 0 and at most 100, not 300"),
        (said(gpu_usage_threshold=0), "must be more than 0 and at most 100, not 0"),
        (said(check_interval_seconds=0.5), "must be from 1 to 300, not 0.5"),
        (said(check_interval_seconds=301), "must be from 1 to 300, not 301"),
        (said(enabled=1), "must be true or false, not 1"),
        (said(wake_method="cron"), 'must be one of manual, auto, scheduled, not "cron"'),
        (said(minimum_awake_minutes=-1), "must be from 0 to 1440, not -1"),
        (said(verify_share=0), "must be more than 0 and at most 1, not 0"),
        (said(schedule={"timezone": "Mars/Olympus"}), '"Mars/Olympus" is not a time zone of the IANA list'),
        (said(schedule={"timezone": "America"}), "is not a time zone"),
        (said(schedule={"timezone": "../etc/passwd"}), "is not a time zone"),
        (said(schedule={"timezone": None}), "is not a time zone"),
        (said(schedule={"wake_time": "9:00"}), 'must be a time as HH:MM from 00:00 to 23:59, not "9:00"'),
        (said(schedule={"wake_time": "24:00"}), "must be a time as HH:MM"),
        (said(schedule={"sleep_time": 18}), "auto_hibernation.schedule.sleep_time must be a time"),
        (said(schedule={"weekdays": []}), "must list days from 0 (Monday) to 6 (Sunday)"),
        (said(schedule={"weekdays": [7]}), "must list days"),
        (said(schedule={"weekdays": [1, 1]}), "none twice"),
        (said(schedule={"weekdays": [True]}), "must list days"),
        (said(schedule={"weekdays": "0-4"}), "must list days"),
        (said(schedule={"wake": "09:00"}), "auto_hibernation.schedule.wake is not a setting"),
        (said(schedule="09:00"), "auto_hibernation.schedule must be a JSON object"),
        (said(signals={"vram_percent": 101}), "must be from 0 to 100, not 101"),
        (said(signals={"ssh_sessions": 0.5}), "must be a whole number, not 0.5"),
        (said(signals={"disk": 1}), "auto_hibernation.signals.disk is not a setting"),
    ],
)
def test_what_is_wrong_is_refused_with_a_sentence(config: object, sentence: str) -> None:
    with pytest.raises(PolicyInvalid) as refused:
        parse(config)
    assert sentence in refused.value.message


def test_everything_that_is_wrong_is_said_at_once_and_by_its_path() -> None:
    with pytest.raises(PolicyInvalid) as refused:
        parse(said(gpu_usage_threshold=300, wake_method="x", schedule={"timezone": "X", "wake_time": "9"}))
    assert list(refused.value.as_json()["fields"]) == [
        "auto_hibernation.gpu_usage_threshold",
        "auto_hibernation.wake_method",
        "auto_hibernation.schedule.timezone",
        "auto_hibernation.schedule.wake_time",
    ]
    assert refused.value.status == 400


def test_each_field_comes_from_the_innermost_level_that_names_it() -> None:
    policy, origins = resolve(
        instance=parse(said(pause_after_idle_minutes=1, schedule={"wake_time": "07:30"})),
        gpu_type=parse(said(pause_after_idle_minutes=2, gpu_usage_threshold=2)),
        owner=parse(said(gpu_usage_threshold=3, schedule={"timezone": "Europe/Paris", "wake_time": "09:00"})),
        site=parse(said(enabled=False, signals={"cpu_percent": 50})),
        defaults={"verify_share": 0.5},
    )
    assert (policy.pause_after_idle_minutes, origins["pause_after_idle_minutes"]) == (1, "instance")
    assert (policy.gpu_usage_threshold, origins["gpu_usage_threshold"]) == (2, "gpu_type")
    assert (policy.schedule.zone, origins["schedule.timezone"]) == ("Europe/Paris", "owner")
    assert (policy.schedule.wake, origins["schedule.wake_time"]) == (time(7, 30), "instance")
    assert (policy.enabled, origins["enabled"]) == (False, "site")
    assert (policy.signals.cpu_percent, origins["signals.cpu_percent"]) == (50, "site")
    assert (policy.verify_share, origins["verify_share"]) == (0.5, "default")
    assert origins["check_interval_seconds"] == "default"
    assert set(origins) == set(p.READERS)


def test_null_switches_a_signal_or_a_schedule_off_that_an_outer_level_switched_on() -> None:
    owner = parse(
        said(signals={"cpu_percent": 50}, schedule={"wake_time": "09:00", "timezone": "Europe/Paris"})
    )
    policy, origins = resolve(instance=parse(said(signals=None, schedule=None)), owner=owner)
    assert policy.signals == p.Signals()
    assert policy.schedule == Times(zone="Europe/Paris"), "the zone is inherited: only the times are off"
    assert (origins["signals.cpu_percent"], origins["schedule.timezone"]) == ("instance", "owner")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"pause_after_idle_minutes": 0.1, "check_interval_seconds": 30},
            "auto_hibernation.pause_after_idle_minutes is 6 s, shorter than one check interval of 30 s",
        ),
        ({"wake_method": "scheduled"}, "auto_hibernation.schedule needs a wake_time or a sleep_time"),
        (
            {"schedule": {"wake_time": "09:00", "sleep_time": "09:00"}},
            "wake_time and sleep_time are both 09:00",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_a_problem(fields: dict[str, Any], sentence: str) -> None:
    problems = p.problems_of(resolve(instance=parse(said(**fields))).policy)
    assert [f"{path} {reason}" for path, reason in problems if sentence in f"{path} {reason}"]


def test_fractions_of_minutes_and_a_check_every_second_are_possible() -> None:
    policy = resolve(instance=parse(said(pause_after_idle_minutes=0.05, check_interval_seconds=1))).policy
    assert policy.pause.total_seconds() == 3
    assert p.problems_of(policy) == []


def test_the_longest_window_ends_before_the_idle_state_does() -> None:
    assert INSTANCE.limits[InstanceState.IDLE].minutes > p.PAUSE_AT_MOST_MINUTES


clock = st.none() | st.times().map(lambda at: f"{at:%H:%M}")
configs = st.fixed_dictionaries(
    {},
    optional={
        "enabled": st.booleans(),
        "pause_after_idle_minutes": st.floats(0.01, 720),
        "gpu_usage_threshold": st.integers(1, 100),
        "check_interval_seconds": st.integers(1, 300),
        "wake_method": st.sampled_from(p.WAKE_METHODS),
        "minimum_awake_minutes": st.floats(0, 1440),
        "schedule": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "wake_time": clock,
                "sleep_time": clock,
                "timezone": st.sampled_from(["UTC", "Europe/Paris", "Australia/Lord_Howe"]),
                "weekdays": st.lists(st.integers(0, 6), min_size=1, unique=True),
            },
        ),
        "signals": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "vram_percent": st.none() | st.floats(0, 100),
                "ssh_sessions": st.none() | st.integers(0, 9),
            },
        ),
    },
)


@given(configs, configs)
def test_a_resolved_policy_survives_its_own_json(instance: dict[str, Any], owner: dict[str, Any]) -> None:
    policy = resolve(instance=parse(said(**instance)), owner=parse(said(**owner))).policy
    assert p.from_json(p.to_json(policy)) == policy


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.slow
@given(
    st.dictionaries(st.sampled_from([*DESIGN["auto_hibernation"], "signals", "x"]), junk, max_size=4) | junk
)
def test_no_json_whatsoever_does_more_than_be_refused(body: object) -> None:
    try:
        p.resolve(instance=parse({"auto_hibernation": body}))
    except PolicyInvalid as refused:
        assert refused.message
