"""Weeks of an account: when they begin, and how a stretch of time falls into them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo


@dataclass(frozen=True, kw_only=True)
class WeekRule:
    """When an account's week begins: weekday (0 = Monday) and hour, local time of an IANA zone."""

    weekday: int = 0
    hour: int = 0
    zone: str = "UTC"


def week_start(at: datetime, rule: WeekRule) -> datetime:
    """The last reset at or before `at`, in UTC. A reset hour that the clock change skips or repeats is one moment:
    the first that a clock on the wall could show."""
    zone = ZoneInfo(rule.zone)
    local = at.astimezone(zone)
    day = (local - timedelta(days=(local.weekday() - rule.weekday) % 7)).date()
    start = _moment(day.year, day.month, day.day, rule.hour, zone)
    if start > at:
        day -= timedelta(days=7)
        start = _moment(day.year, day.month, day.day, rule.hour, zone)
    return start


def week_end(at: datetime, rule: WeekRule) -> datetime:
    """The next reset after `at`, in UTC."""
    # Eight days after a week's beginning is within the next week, whatever the clocks did in between.
    return week_start(week_start(at, rule) + timedelta(days=8), rule)


def _moment(year: int, month: int, day: int, hour: int, zone: ZoneInfo) -> datetime:
    return datetime(year, month, day, hour, tzinfo=zone).astimezone(ZoneInfo("UTC"))


def pieces(start: datetime, end: datetime, rule: WeekRule) -> tuple[tuple[datetime, datetime, datetime], ...]:
    """The stretch from `start` to `end` cut at every reset: ((beginning of the week, from, to), …), the earliest first."""
    cut: list[tuple[datetime, datetime, datetime]] = []
    while start < end:
        # Resets are at full minutes, and thousands of reports fall into one of them.
        week, following = _week(start.replace(second=0, microsecond=0), rule)
        until = min(end, following)
        cut.append((week, start, until))
        start = until
    return tuple(cut)


QUARTER_S = 900


def quarters(start: datetime, end: datetime) -> list[tuple[datetime, float]]:
    """The seconds from `start` to `end` by quarter of an hour: [(its beginning, seconds), …], the earliest first.

    Resets are full hours of zones whose distance from UTC is a multiple of a quarter: none ever falls into one.
    """
    cut = []
    while start < end:
        begin = start.replace(minute=start.minute // 15 * 15, second=0, microsecond=0)
        until = min(begin + timedelta(seconds=QUARTER_S), end)
        cut.append((begin, (until - start).total_seconds()))
        start = until
    return cut


@lru_cache(maxsize=4096)
def _week(at: datetime, rule: WeekRule) -> tuple[datetime, datetime]:
    return week_start(at, rule), week_end(at, rule)


def split(start: datetime, end: datetime, rule: WeekRule) -> tuple[tuple[datetime, float], ...]:
    """The seconds from `start` to `end` by week: ((beginning of the week, seconds), …), the earliest first."""
    return tuple((week, (to - begin).total_seconds()) for week, begin, to in pieces(start, end, rule))
