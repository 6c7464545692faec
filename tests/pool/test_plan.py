"""The capacity plan: what a day needs, and what is opened for it, when, and why."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.plan import Plan, Queue, plan, usual_day
from pool.supply import Holding, Standing, shares
from pool.weeks import quarters

NOW = datetime(2026, 11, 24, 6, 12, tzinfo=UTC)
"""A Tuesday."""

OFFICE = tuple(3.0 if 9 <= hour < 17 else 1.0 if 7 <= hour < 22 else 0.0 for hour in range(24))
KAGGLE = Holding(
    account_id="k",
    label="kaggle k",
    kind="kaggle",
    usable_h=12.0,
    session_h=8.5,
    resets_at=NOW + timedelta(hours=90),
)
COLAB = Holding(account_id="c", label="colab c", kind="colab", session_h=10.35)


def make(
    *holdings: Holding,
    online: int = 0,
    serves_h: float | None = None,
    queue: Queue | None = None,
    wanted: dict[str, int] | None = None,
) -> Plan:
    standings = [Standing(account_id="other", kind="colab", serves_h=serves_h)] * online
    return plan(holdings, standings, queue or Queue(), now=NOW, wanted=wanted)


def test_an_empty_queue_and_no_history_need_nothing() -> None:
    found = make(KAGGLE, COLAB)
    assert found.steps == ()
    assert all(hour.needed == 0 for hour in found.hours)
    assert str(found.reason) == "the 0 workers that are online are enough for the next day"
    assert str(found.reasons["k"]) == "not needed within the next day"


def test_the_account_whose_hours_lapse_is_opened_before_one_without_a_week() -> None:
    found = make(COLAB, KAGGLE, queue=Queue(jobs={"": 1}))
    (step,) = found.steps
    assert (step.account_id, step.at, step.serves_h, step.missing) == ("k", NOW, 8.5, 1)
    assert str(step.reason) == "12.0 h of its week can still be used and lapse in 90 h"
    assert str(found.reason) == "open kaggle k now: workers that are missing: 1"


def test_of_two_weeks_the_one_that_loses_more_in_less_time_goes_first() -> None:
    soon = replace(KAGGLE, account_id="soon", label="soon", usable_h=6, resets_at=NOW + timedelta(hours=12))
    assert make(KAGGLE, soon, queue=Queue(jobs={"": 1})).steps[0].account_id == "soon"


def test_the_queue_needs_as_many_workers_as_do_it_in_time_and_no_more_than_its_jobs() -> None:
    assert Queue(jobs={"": 10}, hours={"": 8.0}, within_h=4).workers_all == 2
    assert Queue(jobs={"": 2}, hours={"": 80.0}, within_h=4).workers_all == 2
    assert Queue().workers_all == 0
    assert make(queue=Queue(jobs={"": 2}, hours={"": 8}, busy={"colab": 3}), online=3).hours[0].needed == 5


def test_jobs_of_a_provider_are_no_reason_to_open_another() -> None:
    found = make(COLAB, KAGGLE, queue=Queue(jobs={"colab": 1}))
    assert [step.account_id for step in found.steps] == ["c"]
    found = make(KAGGLE, online=1, queue=Queue(jobs={"kaggle": 1}))
    assert [step.account_id for step in found.steps] == ["k"]


def test_an_account_is_opened_when_its_hour_comes_and_not_before() -> None:
    found = make(replace(KAGGLE, usual=OFFICE), COLAB, online=1)
    assert found.levels == {"peak": 3, "average": 1, "night": 0}
    assert [(step.account_id, step.at.hour) for step in found.steps] == [("k", 9), ("c", 9)]
    assert str(found.reason) == "open kaggle k in 3 h: workers that are missing then: 2"
    assert all(hour.missing == 0 for hour in found.hours)


def test_a_profile_counts_by_the_clock_of_its_account() -> None:
    brazil = replace(KAGGLE, usual=OFFICE, zone="America/Sao_Paulo")  # three hours behind UTC
    assert [step.at.hour for step in make(brazil, COLAB, online=1).steps] == [12, 12]


def test_a_worker_is_there_until_it_is_near_its_limit() -> None:
    found = make(replace(KAGGLE, usual=(1.0,) * 24), online=1, serves_h=5)
    assert (found.steps[0].account_id, found.steps[0].at.hour) == ("k", 12)
    assert found.hours[5].missing == 0


def test_a_session_that_ends_makes_room_for_the_next_of_its_account_and_both_take_from_its_week() -> None:
    runs = [Standing(account_id="k", kind="kaggle", serves_h=5)]
    found = plan([replace(KAGGLE, usual=(1.0,) * 24)], runs, Queue(), now=NOW)
    (step,) = found.steps
    assert (step.at.hour, step.serves_h) == (12, 7.0)


@pytest.mark.parametrize(
    ("holding", "why"),
    [
        (replace(KAGGLE, enabled=False), "it is switched off"),
        (
            replace(KAGGLE, usable_h=0.2),
            "0.2 h of its week can still be used: too little for a session; anew in 90 h",
        ),
        (replace(KAGGLE, usable_h=None, session_h=None), "it has no hours to plan: nothing limits it"),
    ],
)
def test_an_account_that_is_not_opened_says_why(holding: Holding, why: str) -> None:
    found = make(holding, queue=Queue(jobs={"": 1}))
    assert found.steps == ()
    assert str(found.reasons["k"]) == why
    assert (
        str(found.reason) == "workers that are missing in 0 h: 1, and no account of yours has a session left"
    )


def test_a_session_near_its_limit_holds_its_place_until_it_is_over() -> None:
    near = Standing(account_id="c", kind="colab", serves_h=0, ends_h=1.1)
    found = plan([COLAB], [near], Queue(jobs={"": 1}), now=NOW)
    assert [(step.account_id, step.at.hour) for step in found.steps] == [("c", 8)]
    found = plan([COLAB], [replace(near, ends_h=30)], Queue(jobs={"": 1}), now=NOW)
    assert str(found.reasons["c"]) == "all of its 1 sessions run"


# -- the reset ----------------------------------------------------------------------------------------

FRIDAY = datetime(2026, 11, 27, 20, 12, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 28, tzinfo=UTC)
SPENT = replace(KAGGLE, usable_h=0.0, week_h=21.0, resets_at=MIDNIGHT)


def test_an_account_that_is_used_up_is_opened_when_its_week_begins_anew() -> None:
    found = plan([SPENT], [], Queue(), now=FRIDAY, wanted={"average": 1})
    first, second, *_ = found.steps
    assert (first.at, first.serves_h) == (MIDNIGHT, 8.5)
    assert str(first.reason) == "21.0 h of its week can still be used and lapse in 168 h"
    assert (second.at, second.serves_h) == (MIDNIGHT + timedelta(hours=9), 8.5)
    assert [hour.missing for hour in found.hours[:5]] == [1, 1, 1, 1, 0]


def test_a_session_that_runs_across_the_reset_takes_of_both_weeks_what_lies_in_each() -> None:
    evening = datetime(2026, 11, 27, 22, 0, tzinfo=UTC)
    little = replace(SPENT, usable_h=3.0)
    (first, second, third) = plan([little], [], Queue(), now=evening, wanted={"average": 1}).steps
    assert (first.at, first.serves_h) == (evening, 8.5)  # two hours of this week, six and a half of the next
    assert (second.serves_h, third.serves_h) == (8.5, pytest.approx(21 - 6.5 - 8.5))
    scarce = replace(SPENT, usable_h=1.5)
    first, second, *_ = plan([scarce], [], Queue(), now=evening, wanted={"average": 1}).steps
    assert (first.serves_h, second.at) == (1.5, MIDNIGHT)


def test_a_worker_that_is_near_its_weeks_limit_serves_again_after_the_reset() -> None:
    runs = Standing(account_id="k", kind="kaggle", serves_h=7.0, ends_h=7.0)
    found = plan([SPENT], [runs], Queue(), now=FRIDAY, wanted={"average": 1})
    assert [hour.there for hour in found.hours[:8]] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found.steps[0].at == FRIDAY.replace(minute=0) + timedelta(hours=8)


def test_workers_of_one_account_use_up_its_week_together() -> None:
    both = [Standing(account_id="k", kind="kaggle", serves_h=8.0, ends_h=8.0)] * 2
    two = replace(KAGGLE, usable_h=6.0, week_h=21.0, sessions=2)
    found = plan([two], both, Queue(), now=NOW)
    assert [hour.there for hour in found.hours[:6]] == [2, 2, 2, 2, 0, 0]  # three hours each, from 06:12
    assert plan([two], both[:1], Queue(), now=NOW).hours[6].there == 1


def test_workers_of_an_account_that_is_somebody_elses_share_its_week_as_well() -> None:
    both = [Standing(account_id="k", kind="kaggle", serves_h=8.0, ends_h=8.0)] * 2
    found = plan([COLAB], both, Queue(), now=NOW, usual=[COLAB, replace(KAGGLE, usable_h=6.0)])
    assert [hour.there for hour in found.hours[3:5]] == [2, 0]


@given(wishes=st.lists(st.floats(0, 12), max_size=6), budget=st.floats(0, 30))
def test_shares_are_the_same_for_all_that_wish_for_more_and_no_hour_is_kept_back(
    wishes: list[float], budget: float
) -> None:
    got = shares(wishes, budget)
    assert sum(got) == pytest.approx(min(budget, sum(wishes)))
    most = max(got, default=0.0)
    for wish, share in zip(wishes, got, strict=True):
        assert share <= wish
        assert share == pytest.approx(wish) or share == pytest.approx(most)


# -- levels and profile -------------------------------------------------------------------------------


def test_levels_that_are_given_stand_in_place_of_what_was_used() -> None:
    found = make(replace(KAGGLE, usual=OFFICE), wanted={"peak": 1, "night": 2})
    assert found.levels == {"peak": 1, "average": 1, "night": 2}


def test_a_profile_is_the_mean_of_the_days_that_there_were() -> None:
    since, until = NOW - timedelta(weeks=4), datetime(2026, 11, 24, tzinfo=UTC)
    parts = [
        part
        for day in (1, 2, 3)
        for part in quarters(
            until - timedelta(days=day) + timedelta(hours=9),
            until - timedelta(days=day) + timedelta(hours=10.5),
        )
    ]
    day = usual_day(parts, since=since, until=until, zone="UTC")
    assert day[9] == pytest.approx(3 / 2.625)
    assert (day[10], day[11]) == (pytest.approx(1.5 / 2.625), 0)
    assert usual_day([], since=since, until=until, zone="UTC") == (0.0,) * 24


@given(
    begins=st.lists(st.floats(0, 27 * 24), max_size=10),
    length_h=st.floats(0.1, 12),
    zone=st.sampled_from(["UTC", "America/Sao_Paulo", "Europe/Berlin", "Asia/Kathmandu"]),
)
def test_a_profile_holds_every_hour_that_was_used_once(
    begins: list[float], length_h: float, zone: str
) -> None:
    since = datetime(2026, 10, 1, tzinfo=UTC)  # the clocks of Berlin change within
    until = since + timedelta(weeks=4)
    spells = [(since + timedelta(hours=one), since + timedelta(hours=one + length_h)) for one in begins]
    parts = [part for begin, end in spells for part in quarters(begin, min(end, until))]
    day = usual_day(parts, since=since, until=until, zone=zone)
    days = max(1.0, (until - min((at for at, _ in parts), default=until)).total_seconds() / 86_400)
    used = sum((min(end, until) - begin).total_seconds() for begin, end in spells) / 3600
    assert sum(day) * days == pytest.approx(used)


@given(
    usable=st.lists(st.one_of(st.none(), st.floats(0, 21)), min_size=1, max_size=6),
    jobs=st.integers(0, 20),
    online=st.integers(0, 5),
    use=st.floats(0, 3),
)
def test_no_plan_opens_more_than_there_is(
    usable: list[float | None], jobs: int, online: int, use: float
) -> None:
    holdings = [
        replace(KAGGLE, account_id=str(number), label=str(number), usable_h=hours, usual=(use,) * 24)
        for number, hours in enumerate(usable)
    ]
    found = make(*holdings, online=online, serves_h=3, queue=Queue(jobs={"": jobs}, hours={"": float(jobs)}))
    for holding in holdings:
        steps = [step for step in found.steps if step.account_id == holding.account_id]
        if holding.usable_h is not None:
            assert sum(step.serves_h or 0 for step in steps) <= holding.usable_h + 1e-6
        for one, other in pairwise(steps):
            assert one.serves_h is not None
            assert other.at >= one.at + timedelta(hours=one.serves_h)
    for hour in found.hours:
        assert hour.missing == max(0, hour.needed - hour.there)
