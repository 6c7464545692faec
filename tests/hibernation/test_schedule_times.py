"""Local wake and sleep times in UTC: gaps, folds, days that do not exist, nights."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibernation import schedule_times as st_
from hibernation.schedule_times import Times

NINE, SIX = time(9), time(18)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "day", "at", "expected"),
    [
        # an ordinary day
        ("America/Sao_Paulo", date(2026, 11, 23), time(9), utc(2026, 11, 23, 12)),
        ("UTC", date(2026, 11, 23), time(9), utc(2026, 11, 23, 9)),
        # the clocks skip the time: the first moment after the gap
        ("America/Sao_Paulo", date(2018, 11, 4), time(0, 0), utc(2018, 11, 4, 3)),
        ("America/Sao_Paulo", date(2018, 11, 4), time(0, 59), utc(2018, 11, 4, 3)),
        ("America/Sao_Paulo", date(2018, 11, 4), time(1, 0), utc(2018, 11, 4, 3)),
        ("Europe/Paris", date(2026, 3, 29), time(2, 0), utc(2026, 3, 29, 1)),
        ("Europe/Paris", date(2026, 3, 29), time(2, 59), utc(2026, 3, 29, 1)),
        ("Europe/Paris", date(2026, 3, 29), time(1, 59), utc(2026, 3, 29, 0, 59)),
        ("Australia/Lord_Howe", date(2026, 10, 4), time(2, 15), utc(2026, 10, 3, 15, 30)),  # half an hour
        # the clocks pass the time twice: the first of the two
        ("America/Sao_Paulo", date(2018, 2, 17), time(23, 30), utc(2018, 2, 18, 1, 30)),
        ("Europe/Paris", date(2026, 10, 25), time(2, 30), utc(2026, 10, 25, 0, 30)),
        ("Australia/Lord_Howe", date(2026, 4, 5), time(1, 45), utc(2026, 4, 4, 14, 45)),
        # a whole day is skipped
        ("Pacific/Apia", date(2011, 12, 30), time(9), utc(2011, 12, 30, 10)),
        ("Pacific/Apia", date(2011, 12, 31), time(9), utc(2011, 12, 30, 19)),
    ],
)
def test_moment_of_a_local_time(zone: str, day: date, at: time, expected: datetime) -> None:
    assert st_.moment(day, at, zone) == expected


@given(
    zone=st.sampled_from(
        [
            "America/Sao_Paulo",
            "Europe/Paris",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "Africa/Cairo",
            "Asia/Tehran",
        ]
    ),
    day=st.dates(date(1990, 1, 1), date(2036, 12, 31)),
    minute=st.integers(0, 24 * 60 - 1),
)
def test_a_moment_reads_as_the_local_time_or_as_the_end_of_the_gap_that_swallowed_it(
    zone: str, day: date, minute: int
) -> None:
    at = time(minute // 60, minute % 60)
    found = st_.moment(day, at, zone)
    local = found.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    wanted = datetime.combine(day, at)
    if local == wanted:
        assert found.astimezone(ZoneInfo(zone)).fold == 0, "the first of a doubled time"
        return
    second_before = (found - timedelta(seconds=1)).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    assert second_before < wanted < local, (
        "the last second before is earlier on the clock, the moment itself later"
    )


def test_the_same_local_time_is_kept_when_the_clocks_change() -> None:
    times = Times(NINE, SIX, "Europe/Paris")
    assert st_.next_wake(times, utc(2026, 3, 28, 7)) == utc(2026, 3, 28, 8)
    assert st_.next_wake(times, utc(2026, 3, 28, 8)) == utc(2026, 3, 29, 7)


def test_only_the_weekdays_of_the_schedule_count() -> None:
    times = Times(NINE, SIX, "America/Sao_Paulo", (0, 1, 2, 3, 4))
    friday_evening = utc(2026, 11, 20, 22)
    assert st_.next_wake(times, friday_evening) == utc(2026, 11, 23, 12)
    assert st_.awake_window(times, utc(2026, 11, 21, 15)) is None
    assert st_.last_sleep(times, utc(2026, 11, 22, 15)) == utc(2026, 11, 20, 21)


def test_a_window_is_from_wake_on_and_up_to_sleep() -> None:
    times = Times(NINE, SIX)
    window = (utc(2026, 11, 21, 9), utc(2026, 11, 21, 18))
    assert st_.awake_window(times, utc(2026, 11, 21, 8, 59, 59)) is None
    assert st_.awake_window(times, utc(2026, 11, 21, 9)) == window
    assert st_.awake_window(times, utc(2026, 11, 21, 17, 59, 59)) == window
    assert st_.awake_window(times, utc(2026, 11, 21, 18)) is None


def test_a_night_belongs_to_the_day_on_which_it_begins() -> None:
    fridays = Times(time(22), time(6), weekdays=(4,))
    assert st_.awake_window(fridays, utc(2026, 11, 21, 3)) == (utc(2026, 11, 20, 22), utc(2026, 11, 21, 6))
    assert st_.next_sleep(fridays, utc(2026, 11, 20, 7)) == utc(2026, 11, 21, 6)
    assert st_.awake_window(fridays, utc(2026, 11, 22, 3)) is None


def test_one_time_alone_makes_no_window() -> None:
    assert st_.next_sleep(Times(wake=NINE), utc(2026, 11, 21)) is None
    assert st_.next_wake(Times(sleep=SIX), utc(2026, 11, 21)) is None
    assert st_.next_sleep(Times(sleep=SIX), utc(2026, 11, 21)) == utc(2026, 11, 21, 18)
    assert st_.awake_window(Times(wake=NINE), utc(2026, 11, 21, 10)) is None
    assert Times().empty


def test_a_day_that_the_zone_left_out_has_no_wake() -> None:
    times = Times(wake=NINE, zone="Pacific/Apia")
    thursday = st_.moment(date(2011, 12, 29), NINE, "Pacific/Apia")
    assert st_.next_wake(times, thursday) == st_.moment(date(2011, 12, 31), NINE, "Pacific/Apia")
    only_fridays = Times(wake=NINE, zone="Pacific/Apia", weekdays=(4,))
    assert st_.next_wake(only_fridays, thursday) == st_.moment(date(2012, 1, 6), NINE, "Pacific/Apia")


def test_a_window_that_a_gap_swallows_whole_does_not_happen() -> None:
    times = Times(time(2, 10), time(2, 50), "Europe/Paris")
    assert st_.next_wake(times, utc(2026, 3, 28, 12)) == utc(2026, 3, 30, 0, 10)


@given(
    now=st.integers(0, 6_600).map(
        lambda days: utc(2011, 12, 1) + timedelta(days=days, seconds=86_400 * (days % 97) // 97)
    ),
    zone=st.sampled_from(["America/Sao_Paulo", "Europe/Paris", "Australia/Lord_Howe", "Pacific/Apia"]),
    wake=st.times().map(lambda at: at.replace(second=0, microsecond=0)),
    sleep=st.times().map(lambda at: at.replace(second=0, microsecond=0)),
    weekdays=st.sets(st.integers(0, 6), min_size=1).map(lambda days: tuple(sorted(days))),
)
def test_last_and_next_lie_on_both_sides_of_now_with_nothing_between(
    now: datetime, zone: str, wake: time, sleep: time, weekdays: tuple[int, ...]
) -> None:
    times = Times(wake, None if sleep == wake else sleep, zone, weekdays)
    before, after = st_.last_wake(times, now), st_.next_wake(times, now)
    assert before is not None and after is not None
    assert before <= now < after
    assert st_.next_wake(times, before) == after
    window = st_.awake_window(times, now)
    if times.sleep is not None:
        slept, sleeps = st_.last_sleep(times, now), st_.next_sleep(times, now)
        assert slept is not None and sleeps is not None
        assert slept <= now < sleeps
        assert (window is not None) == (before > slept or sleeps < after), (
            "inside: the next thing is to sleep"
        )
