"""The verdict: what is idle, since when, until when; what is unknown is activity."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibernation.idle import Facts, Reading, Verdict, verdict
from hibernation.policy import Policy, Signals, from_json, to_json
from hibernation.schedule_times import Times

T0 = datetime(2026, 11, 21, 14, 30, tzinfo=UTC)
POLICY = Policy(minimum_awake_minutes=0)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def reading(seconds: float, util: float | None = 2.0, **more: Any) -> Reading:
    return Reading(at(seconds), util, more)


def readings(*seconds: float, util: float | None = 2.0) -> list[Reading]:
    return [reading(second, util) for second in seconds]


def every_30_s(until: int, util: float | None = 2.0) -> list[Reading]:
    return readings(*range(0, until + 1, 30), util=util)


def test_idle_from_the_first_idle_reading_and_due_after_the_window() -> None:
    found = verdict(POLICY, every_30_s(60), Facts(), at(65))
    assert (found.idle, found.since, found.due_at) == (True, T0, at(180))
    assert str(found.reason) == "GPU 2.0 % below 5 % since 14:30:00, hibernates at 14:33:00 UTC"
    assert not found.due(at(179.9))


def test_the_window_over_says_so() -> None:
    found = verdict(POLICY, every_30_s(180), Facts(), at(180))
    assert found.due(at(180))
    assert str(found.reason) == "GPU 2.0 % below 5 % since 14:30:00 UTC, for all of 3 minutes"


def test_the_window_is_time_and_not_a_count_of_readings() -> None:
    sparse = verdict(POLICY, readings(0, 70, 140, 180), Facts(), at(181))
    dense = verdict(POLICY, readings(*range(0, 60)), Facts(), at(61))
    assert sparse.due(at(181)), "four readings are enough where they span the window"
    assert not dense.due(at(61)), "sixty are not where they do not"


@pytest.mark.parametrize("util", [5.0, 5.1, 87, 100])
def test_at_the_threshold_or_above_is_active(util: float) -> None:
    found = verdict(POLICY, [*every_30_s(60), reading(90, util)], Facts(), at(91))
    assert not found.idle
    assert found.active_at == at(90)
    assert str(found.reason) == f"GPU {util:.1f} % is not below 5 %"


def test_one_busy_reading_starts_the_window_anew() -> None:
    found = verdict(POLICY, [*every_30_s(60), reading(90, 50), *readings(120, 150)], Facts(), at(151))
    assert found.since == at(120)


def test_every_gpu_must_be_below_the_threshold() -> None:
    gpus = [{"index": 0, "util": 1.0}, {"index": 1, "util": 40.0}]
    assert verdict(POLICY, [reading(0, 1.0, gpus=gpus)], Facts(), at(1)).reason.code == "awake_gpu_busy"
    gpus[1]["util"] = None  # type: ignore[assignment]
    assert verdict(POLICY, [reading(0, 1.0, gpus=gpus)], Facts(), at(1)).reason.code == "awake_gpu_unknown"


def test_unknown_utilisation_is_active_and_no_sign_of_activity() -> None:
    found = verdict(POLICY, [reading(0, None)], Facts(), at(1))
    assert (found.idle, found.active_at) == (False, None)
    assert found.reason.code == "awake_gpu_unknown"


def test_no_readings_are_active() -> None:
    assert verdict(POLICY, [], Facts(), T0).reason.code == "awake_no_reading"


def test_readings_from_before_it_started_do_not_count() -> None:
    assert (
        verdict(POLICY, every_30_s(60), Facts(awake_since=at(61)), at(62)).reason.code == "awake_no_reading"
    )


def test_a_last_reading_older_than_two_intervals_and_the_grace_is_active() -> None:
    assert verdict(POLICY, every_30_s(60), Facts(), at(60 + 70)).idle
    found = verdict(POLICY, every_30_s(60), Facts(), at(60 + 70.1))
    assert not found.idle
    assert (
        str(found.reason) == "the last reading is from 14:31:00, 70 s ago: more than 70 s counts as activity"
    )


def test_a_gap_between_readings_breaks_the_stretch() -> None:
    assert verdict(POLICY, readings(0, 30, 100, 130), Facts(), at(131)).since == T0
    assert verdict(POLICY, readings(0, 30, 100.1, 130), Facts(), at(131)).since == at(100.1)


def test_the_check_interval_of_the_policy_says_what_stale_is() -> None:
    fast = Policy(minimum_awake_minutes=0, check_interval_seconds=1)
    assert verdict(fast, readings(0), Facts(), at(12)).idle
    assert verdict(fast, readings(0), Facts(), at(12.1)).reason.code == "awake_stale"


def test_a_known_stretch_goes_on_with_the_readings_that_follow_it() -> None:
    known = Facts(idle=(at(-600), at(0)))
    assert verdict(POLICY, readings(0, 30), known, at(31)).since == at(-600)
    assert verdict(POLICY, readings(60), known, at(61)).since == at(-600)
    assert verdict(POLICY, readings(70.1), known, at(71)).since == at(70.1), "a gap lies between"
    broken = [reading(30, 90), reading(60)]
    assert verdict(POLICY, broken, known, at(61)).since == at(60), "activity lies between"


# -- what holds it awake --------------------------------------------------------------------------------------------


def test_a_policy_that_is_switched_off_never_hibernates() -> None:
    assert (
        verdict(Policy(enabled=False), every_30_s(600), Facts(), at(600)).reason.code == "awake_switched_off"
    )


def test_work_is_activity_and_its_end_starts_the_window() -> None:
    found = verdict(POLICY, every_30_s(600), Facts(work=("job j_1",)), at(600))
    assert (found.idle, str(found.reason)) == (False, "work on it is not finished: job j_1")
    ended = verdict(POLICY, every_30_s(600), Facts(last_active_at=at(590)), at(600))
    assert (ended.idle, ended.since, ended.due_at) == (True, at(590), at(770))


def test_keep_awake_holds_and_its_end_starts_the_window() -> None:
    hold = Facts(keep_awake_until=at(900))
    found = verdict(POLICY, every_30_s(600), hold, at(600))
    assert str(found.reason) == "keep awake until 14:45:00 UTC"
    assert found.look_again_at == at(900)
    assert verdict(POLICY, every_30_s(900), hold, at(900)).since == at(900)


def test_after_a_start_it_stays_awake_for_the_minimum() -> None:
    policy, facts = Policy(), Facts(awake_since=T0)
    found = verdict(policy, every_30_s(570), facts, at(599))
    assert str(found.reason) == "it stays awake for at least 10 minutes after a start, until 14:40:00 UTC"
    assert verdict(policy, every_30_s(600), facts, at(600)).since == at(600)


def test_inside_an_awake_window_it_is_kept_only_where_its_wake_method_is_scheduled() -> None:
    times = Times(time(9), time(15), "UTC")
    scheduled = Policy(minimum_awake_minutes=0, wake_method="scheduled", schedule=times)
    found = verdict(scheduled, every_30_s(600), Facts(), at(600))
    assert str(found.reason) == "its schedule keeps it awake until 15:00:00 UTC"
    assert verdict(scheduled, every_30_s(1800), Facts(), at(1800)).since == at(1800), "the window's end"
    manual = Policy(minimum_awake_minutes=0, schedule=times)
    assert verdict(manual, every_30_s(600), Facts(), at(600)).idle


FULL = {
    "gpus": [{"util": 1.0, "mem_used_bytes": 8 * 2**30, "mem_total_bytes": 16 * 2**30}],
    "cpu_util": 30.0,
    "net_bytes_per_s": 5_000.0,
    "sessions": {"ssh": 1, "jupyter": 2},
}


@pytest.mark.parametrize(
    ("signals", "value"),
    [
        (Signals(vram_percent=49), 50),
        (Signals(cpu_percent=29), 30),
        (Signals(net_bytes_per_s=4_999), 5_000),
        (Signals(ssh_sessions=0), 1),
        (Signals(jupyter_sessions=1), 2),
    ],
)
def test_a_signal_above_its_threshold_is_activity(signals: Signals, value: float) -> None:
    policy = Policy(minimum_awake_minutes=0, signals=signals)
    found = verdict(policy, [reading(0, 1.0, **FULL)], Facts(), at(1))
    (name, threshold), *_ = signals.named()
    assert str(found.reason) == f"{name} is {value}, above {threshold:g}"
    assert found.active_at == T0
    missing = verdict(policy, [reading(0, 1.0)], Facts(), at(1))
    assert str(missing.reason) == f"{name} is unknown, which counts as activity"


def test_a_signal_at_its_threshold_or_not_named_is_no_activity() -> None:
    at_it = Signals(50, 30, 5_000, 1, 2)
    assert verdict(
        Policy(minimum_awake_minutes=0, signals=at_it), [reading(0, 1.0, **FULL)], Facts(), at(1)
    ).idle
    assert verdict(POLICY, [reading(0, 1.0, **FULL)], Facts(), at(1)).idle


def test_other_days_are_named_in_the_sentence() -> None:
    found = verdict(POLICY, every_30_s(60), Facts(keep_awake_until=at(86_400)), at(60))
    assert str(found.reason) == "keep awake until 2026-11-22 14:30:00 UTC"


# -- properties -----------------------------------------------------------------------------------------------------

utils = st.none() | st.floats(0, 100)
gaps = st.floats(0.1, 120)
histories = st.lists(st.tuples(gaps, utils), max_size=40)
holds = st.none() | st.floats(-600, 600)
facts_of = st.builds(
    lambda awake, hold, ended, work: Facts(
        awake_since=None if awake is None else at(awake),
        keep_awake_until=None if hold is None else at(hold),
        work=work,
        last_active_at=None if ended is None else at(ended),
    ),
    st.none() | st.floats(-6000, 0),
    holds,
    st.none() | st.floats(-600, 0),
    st.sampled_from([(), (), (), ("job j_1",)]),
)
policies = st.builds(
    Policy,
    enabled=st.sampled_from([True, True, True, False]),
    pause_after_idle_minutes=st.floats(0.1, 20),
    gpu_usage_threshold=st.floats(1, 100),
    check_interval_seconds=st.floats(1, 60),
    minimum_awake_minutes=st.floats(0, 20),
)


def history_of(steps: list[tuple[float, float | None]]) -> list[Reading]:
    """Readings that end shortly before T0."""
    seconds = 0.0
    found = []
    for gap, util in reversed(steps):
        seconds -= gap
        found.append(reading(seconds, util))
    return found[::-1]


@given(policies, histories, facts_of)
def test_idle_only_where_everything_since_then_was_seen_and_seen_idle(
    policy: Policy, steps: list[tuple[float, float | None]], facts: Facts
) -> None:
    history = history_of(steps)
    found = verdict(policy, history, facts, T0)
    assert found.look_again_at > T0
    if not found.idle:
        assert found.since is None
        assert found.due_at is None
        return
    assert policy.enabled
    assert not facts.work
    assert facts.keep_awake_until is None or facts.keep_awake_until <= T0
    assert found.since is not None
    assert found.due_at == found.since + policy.pause
    seen = [moment for moment in history if moment.at >= found.since]
    assert all(
        moment.gpu_util is not None and moment.gpu_util < policy.gpu_usage_threshold for moment in seen
    )
    marks = [found.since, *(moment.at for moment in seen), T0]
    assert all(later - earlier <= policy.silence for earlier, later in pairwise(marks))
    for end in (facts.keep_awake_until, facts.last_active_at):
        assert end is None or found.since >= end


@given(policies, histories, facts_of)
def test_a_verdict_replays_from_what_is_stored_of_it(
    policy: Policy, steps: list[tuple[float, float | None]], facts: Facts
) -> None:
    def essence(found: Verdict) -> tuple[Any, ...]:
        return found.idle, found.since, found.due_at, found.active_at, found.reason

    found = verdict(policy, history_of(steps), facts, T0)
    samples = [Reading.from_json(item.to_json()) for item in found.samples]
    again = verdict(from_json(to_json(policy)), samples, Facts.from_json(facts.to_json()), T0)
    assert essence(again) == essence(found)


@given(policies, histories, facts_of, st.integers(0, 40))
def test_judging_in_pieces_finds_the_same_stretch_as_judging_at_once(
    policy: Policy, steps: list[tuple[float, float | None]], facts: Facts, cut: int
) -> None:
    history = history_of(steps)
    whole = verdict(policy, history, facts, T0)
    before, after = history[:cut], history[cut:]
    if not before or not after:
        return
    first = verdict(policy, before, facts, before[-1].at)
    known = (first.since, before[-1].at) if first.idle and first.since else None
    pieced = verdict(
        policy,
        [*([] if known else before[-1:]), *after],
        Facts(facts.awake_since, facts.keep_awake_until, facts.work, facts.last_active_at, known),
        T0,
    )
    assert pieced.idle == whole.idle
    if known or not whole.idle or (whole.since or T0) > before[-1].at:
        assert pieced.since == whole.since


@given(policies, histories.filter(bool), facts_of, utils.filter(lambda util: util is None or util > 0))
def test_a_busy_or_unknown_newest_reading_is_never_idle(
    policy: Policy, steps: list[tuple[float, float | None]], facts: Facts, util: float | None
) -> None:
    newest = reading(0, util if util is None or util >= policy.gpu_usage_threshold else None)
    assert not verdict(policy, [*history_of(steps), newest], facts, T0).idle
