"""Quota: the table of limits, readings, weeks, and the growth of sessions."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool import quota
from pool.quota import DEFAULTS, Limits, Session, WeekRule, growth, reading, split, week_end, week_start

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
UTC_WEEK = WeekRule()


# -- the brief's own figures ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "used", "percent", "safe"),
    [
        ("colab", {"session_runtime_h": 9.2}, 80.0, True),
        ("colab", {"session_runtime_h": 10.8}, 93.9, False),
        ("kaggle", {"week_used_h": 18}, 60.0, True),
        ("kaggle", {"week_used_h": 25}, 83.3, False),
        ("kaggle", {"week_used_h": 20.99}, 70.0, True),
        ("kaggle", {"week_used_h": 21}, 70.0, False),
    ],
)
def test_the_briefs_examples(kind: str, used: dict, percent: float, safe: bool) -> None:
    got = reading(DEFAULTS[kind], **used)
    assert round(got.percent, 1) == percent
    assert got.safe is safe


def test_a_reading_is_logged_as_operators_read_it() -> None:
    got = reading(DEFAULTS["colab"], session_runtime_h=2.3)
    assert got.line("1") == "quota colab worker=1 session 2.30h/11.5h (20.0%) safe"
    near = reading(DEFAULTS["kaggle"], week_used_h=25)
    assert near.line("k2") == "quota kaggle worker=k2 week 25.00h/30h (83.3%) near limit"
    free = reading(DEFAULTS["local"])
    assert free.line("r1") == "quota local worker=r1 no limit safe"


def test_an_unsafe_reading_says_why_with_its_figures() -> None:
    near = reading(DEFAULTS["colab"], session_runtime_h=10.8)
    assert str(near.why_unsafe()) == "near its limit: session 10.80 h of 11.5 h (93.9 %)"


def test_agents_end_sessions_before_the_provider_does() -> None:
    for limits in DEFAULTS.values():
        if limits.session_limit_h is not None:
            assert limits.session_shutdown_h == limits.session_limit_h - 0.5


def test_hours_left_end_with_the_session_or_the_week_whichever_is_first() -> None:
    assert reading(DEFAULTS["kaggle"], session_runtime_h=8, week_used_h=10).left_h == 0.5
    assert reading(DEFAULTS["kaggle"], session_runtime_h=1, week_used_h=29).left_h == 1
    assert reading(DEFAULTS["local"]).left_h is None


def test_a_used_up_session_is_not_safe_although_its_week_is_young() -> None:
    got = reading(DEFAULTS["kaggle"], session_runtime_h=8.6, week_used_h=9)
    assert not got.safe
    assert str(got.why_unsafe()) == "its session is used up"


def test_money_counts_by_the_budget_that_is_nearer_its_end() -> None:
    limits = Limits(kind="vast", budget_usd_per_day=10, budget_usd_per_month=100)
    got = reading(limits, spent_usd_day=5, spent_usd_month=95)
    assert (got.period, round(got.percent), got.safe) == ("month", 95, False)
    assert str(got.why_unsafe()) == "near its limit: 95.00 of 100.00 USD this month (95.0 %)"


def test_a_limit_of_nothing_is_used_up() -> None:
    assert not reading(Limits(kind="vast", budget_usd_per_day=0)).safe


# -- weeks ------------------------------------------------------------------------------------------


def test_the_week_begins_on_monday_at_midnight_utc_unless_the_account_says_otherwise() -> None:
    assert week_start(MONDAY, UTC_WEEK) == MONDAY
    assert week_start(MONDAY - timedelta(seconds=1), UTC_WEEK) == MONDAY - timedelta(days=7)
    saturday = WeekRule(weekday=5, hour=0)
    assert week_start(MONDAY, saturday) == datetime(2026, 11, 14, tzinfo=UTC)


def test_a_local_reset_follows_its_zones_clock() -> None:
    rule = WeekRule(weekday=0, hour=9, zone="America/Sao_Paulo")
    assert week_start(MONDAY + timedelta(hours=12), rule) == datetime(2026, 11, 16, 12, tzinfo=UTC)
    assert week_start(MONDAY + timedelta(hours=11), rule) == datetime(2026, 11, 9, 12, tzinfo=UTC)


def test_weeks_are_an_hour_shorter_and_longer_where_the_clocks_change() -> None:
    berlin = WeekRule(weekday=0, hour=0, zone="Europe/Berlin")
    spring = datetime(2026, 3, 26, tzinfo=UTC)
    autumn = datetime(2026, 10, 22, tzinfo=UTC)
    assert week_end(spring, berlin) - week_start(spring, berlin) == timedelta(days=7, hours=-1)
    assert week_end(autumn, berlin) - week_start(autumn, berlin) == timedelta(days=7, hours=1)


def test_a_reset_hour_that_the_clock_skips_or_repeats_is_one_moment() -> None:
    skipped = WeekRule(weekday=6, hour=2, zone="Europe/Berlin")  # 29 March 2026: 02:00 becomes 03:00
    assert week_start(datetime(2026, 3, 29, 12, tzinfo=UTC), skipped) == datetime(2026, 3, 29, 1, tzinfo=UTC)
    repeated = WeekRule(weekday=6, hour=2, zone="Europe/Berlin")  # 25 October 2026: 02:00 comes twice
    assert week_start(datetime(2026, 10, 25, 12, tzinfo=UTC), repeated) == datetime(
        2026, 10, 25, 0, tzinfo=UTC
    )


rules = st.builds(
    WeekRule,
    weekday=st.integers(0, 6),
    hour=st.integers(0, 23),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "America/New_York", "Asia/Kathmandu"]),
)
moments = st.integers(0, 3 * 365 * 86_400).map(
    lambda seconds: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)


@given(at=moments, rule=rules)
def test_every_moment_lies_in_exactly_one_week(at: datetime, rule: WeekRule) -> None:
    start, end = week_start(at, rule), week_end(at, rule)
    assert start <= at < end
    assert timedelta(days=6, hours=22) < end - start < timedelta(days=7, hours=2)
    assert week_start(start, rule) == start
    assert week_start(end, rule) == end
    assert week_start(end - timedelta(microseconds=1), rule) == start


@given(at=moments, hours=st.floats(0, 400), rule=rules)
def test_a_split_loses_and_adds_nothing(at: datetime, hours: float, rule: WeekRule) -> None:
    end = at + timedelta(hours=hours)
    parts = split(at, end, rule)
    assert sum(seconds for _, seconds in parts) == pytest.approx((end - at).total_seconds())
    assert [start for start, _ in parts] == sorted({start for start, _ in parts})


# -- growth -----------------------------------------------------------------------------------------


def run(
    posts: list[tuple[float, float]], *, rule: WeekRule = UTC_WEEK, began: datetime = MONDAY
) -> quota.Growth:
    """The last of these reports: (hours after `began` at which it arrived, hours that it said)."""
    session = Session(started_at=began)
    grown = quota.Growth(session=session)
    for at_h, runtime_h in posts:
        grown = growth(grown.session, runtime_s=3600 * runtime_h, at=began + timedelta(hours=at_h), rule=rule)
    return grown


def total_h(posts: list[tuple[float, float]], **kwargs: object) -> float:
    """Hours counted in all over these reports."""
    began = MONDAY
    session = Session(started_at=began)
    counted = 0.0
    for at_h, runtime_h in posts:
        grown = growth(session, runtime_s=3600 * runtime_h, at=began + timedelta(hours=at_h), rule=UTC_WEEK)
        session = grown.session
        counted += sum(seconds for _, seconds in grown.used)
    return counted / 3600


def test_reports_add_up_to_the_runtime() -> None:
    assert total_h([(0.1, 0.1), (0.2, 0.2), (0.5, 0.5)]) == pytest.approx(0.5)


def test_a_lost_report_loses_nothing_and_a_doubled_one_adds_nothing() -> None:
    assert total_h([(0.1, 0.1), (0.5, 0.5), (0.5, 0.5)]) == pytest.approx(0.5)


def test_a_report_that_comes_late_changes_nothing() -> None:
    late = run([(0.1, 0.1), (0.5, 0.5), (0.51, 0.2)])
    assert late.late
    assert late.used == ()
    assert total_h([(0.1, 0.1), (0.5, 0.5), (0.51, 0.2), (0.6, 0.6)]) == pytest.approx(0.6)


def test_a_runtime_that_goes_back_is_a_new_session_and_counts_from_its_own_beginning() -> None:
    again = run([(1.0, 1.0), (2.0, 0.5)])
    assert again.restarted
    assert again.session.started_at == MONDAY + timedelta(hours=1.5)
    assert total_h([(1.0, 1.0), (2.0, 0.5), (2.5, 1.0)]) == pytest.approx(2.0)


def test_a_new_session_that_is_older_than_the_last_one_was_is_told_by_its_beginning() -> None:
    again = run([(1.0, 1.0), (4.0, 2.0)])
    assert again.restarted
    assert total_h([(1.0, 1.0), (4.0, 2.0)]) == pytest.approx(3.0)


def test_growth_over_the_weekly_reset_is_split_at_it() -> None:
    began = MONDAY + timedelta(days=7) - timedelta(minutes=40)
    session = growth(
        Session(started_at=began), runtime_s=600, at=began + timedelta(minutes=10), rule=UTC_WEEK
    ).session
    grown = growth(session, runtime_s=3600, at=began + timedelta(hours=1), rule=UTC_WEEK)
    assert grown.used == ((MONDAY, 1800.0), (MONDAY + timedelta(days=7), 1200.0))


def test_more_than_an_hour_without_a_report_is_a_gap_and_still_counted_once() -> None:
    gap = run([(0.5, 0.5), (2.0, 2.0)])
    assert gap.gap_s == pytest.approx(1.5 * 3600)
    assert total_h([(0.5, 0.5), (2.0, 2.0), (2.1, 2.1)]) == pytest.approx(2.1)
    assert run([(0.5, 0.5), (1.5, 1.5)]).gap_s == 0


def test_the_first_report_of_a_long_session_is_no_gap() -> None:
    first = run([(5.0, 5.0)])
    assert first.gap_s == 0
    assert sum(seconds for _, seconds in first.used) == 5 * 3600


def test_a_report_without_a_runtime_proves_nothing_and_is_counted_by_the_servers_clock() -> None:
    before = Session(started_at=MONDAY, runtime_s=60, counted_s=60, last_post_at=MONDAY)
    grown = growth(before, runtime_s=None, at=MONDAY + timedelta(hours=1), rule=UTC_WEEK)
    assert grown.session.last_post_at == MONDAY + timedelta(hours=1)
    assert (grown.session.runtime_s, grown.session.counted_s) == (3600, 60)
    assert grown.used == ()


@given(
    lengths=st.lists(st.floats(0.5, 12), min_size=1, max_size=4),
    pauses=st.lists(st.floats(0.1, 5), min_size=4, max_size=4),
    choices=st.lists(st.sampled_from(["sent", "lost", "doubled", "late"]), min_size=1, max_size=40),
)
def test_any_losses_and_doublings_end_within_a_minute_of_the_truth(
    lengths: list[float], pauses: list[float], choices: list[str]
) -> None:
    """Sessions one after the other; posts each minute, each lost, doubled, or arriving 90 s late after its successor.
    The last post of each session arrives, because nobody can know of what no report proves."""
    session = Session(started_at=MONDAY)
    counted = 0.0
    clock = MONDAY
    number = 0
    for length, pause in zip(lengths, pauses, strict=False):
        clock += timedelta(hours=pause)
        minutes = int(length * 60)
        arrivals = []
        for minute in range(2, minutes + 1):
            at, runtime_s = clock + timedelta(minutes=minute), minute * 60.0
            fate = choices[number % len(choices)] if minute < minutes - 2 else "sent"
            number += 1
            if fate in ("sent", "doubled"):
                arrivals.append((at, runtime_s))
            if fate == "doubled":
                arrivals.append((at + timedelta(seconds=1), runtime_s))
            if fate == "late":
                arrivals.append((at + timedelta(seconds=90), runtime_s))
        for at, runtime_s in sorted(arrivals):
            grown = growth(session, runtime_s=runtime_s, at=at, rule=UTC_WEEK)
            session = grown.session
            counted += sum(seconds for _, seconds in grown.used)
        clock += timedelta(minutes=minutes)
    truth = sum(int(length * 60) * 60 for length, _ in zip(lengths, pauses, strict=False))
    assert abs(counted - truth) < 60
