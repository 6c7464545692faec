"""When a person's wake and sleep times are, in UTC. Pure.

A schedule is local time, an IANA zone and weekdays, and every day is computed anew, so that 09:00 stays 09:00 when the
clocks change. A time that a day skips (clocks go forward) is the first moment after the gap; of a time that a day has
twice (clocks go back) it is the first one. A day that a zone leaves out whole has no times at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

EVERY_DAY = (0, 1, 2, 3, 4, 5, 6)
HORIZON_DAYS = 16
"""Far enough to meet every weekday twice, should a zone leave one of its days out."""

# Days to look at, from the local day. A window reaches into the day after its own, and a gap into the one after that.
_AROUND = range(-2, 2)
_AHEAD = range(-2, HORIZON_DAYS)
_BACK = range(1, -HORIZON_DAYS, -1)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Times:
    """wake, sleep: local times, None for never; they differ. weekdays: 0 is Monday; the days on which it wakes.

    With both, the instance is to be awake from wake until sleep; where sleep is the earlier time of day, it is the next
    day's. With one of them only that moment counts, and there is no window.
    """

    wake: time | None = None
    sleep: time | None = None
    zone: str = "UTC"
    weekdays: tuple[int, ...] = EVERY_DAY

    @property
    def empty(self) -> bool:
        return self.wake is None and self.sleep is None


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """Every IANA zone that this machine knows."""
    return frozenset(available_timezones())


def moment(day: date, at: time, zone: str) -> datetime:
    """The moment in UTC of a local time on a local day: after the gap where it is skipped, the first where it is doubled."""
    local = datetime.combine(day, at)
    info = ZoneInfo(zone)
    first = local.replace(tzinfo=info, fold=0).astimezone(UTC)
    if first.astimezone(info).replace(tzinfo=None) == local:
        return first
    # In a gap. fold=0 reads the clock as before the change and lands behind it; fold=1 lands before it.
    before = local.replace(tzinfo=info, fold=1).astimezone(UTC)
    return _offset_change(before, first, info)


def _offset_change(before: datetime, after: datetime, info: ZoneInfo) -> datetime:
    """The first second in (before, after] that has the offset of `after`."""
    wanted = after.astimezone(info).utcoffset()
    while after - before > _SECOND:
        middle = before + timedelta(seconds=int((after - before).total_seconds()) // 2)
        if middle.astimezone(info).utcoffset() == wanted:
            after = middle
        else:
            before = middle
    return after


def next_wake(times: Times, after: datetime) -> datetime | None:
    """The first wake later than `after`, in UTC; None where it never wakes."""
    return next((at for at in _wakes(times, after, _AHEAD) if at > after), None)


def next_sleep(times: Times, after: datetime) -> datetime | None:
    """The first sleep later than `after`, in UTC; None where it never sleeps."""
    return next((at for at in _sleeps(times, after, _AHEAD) if at > after), None)


def last_wake(times: Times, now: datetime) -> datetime | None:
    """The latest wake up to and including `now`."""
    return next((at for at in _wakes(times, now, _BACK) if at <= now), None)


def last_sleep(times: Times, now: datetime) -> datetime | None:
    """The latest sleep up to and including `now`."""
    return next((at for at in _sleeps(times, now, _BACK) if at <= now), None)


def awake_window(times: Times, now: datetime) -> tuple[datetime, datetime] | None:
    """The window (wake, sleep) in which `now` lies: from wake on, up to but without sleep."""
    return next(((start, end) for start, end in _windows(times, now, _AROUND) if start <= now < end), None)


def _wakes(times: Times, around: datetime, shifts: range) -> Iterator[datetime]:
    if times.sleep is not None:
        yield from (start for start, _ in _windows(times, around, shifts))
    elif times.wake is not None:
        yield from (moment(day, times.wake, times.zone) for day in _days(times, around, shifts))


def _sleeps(times: Times, around: datetime, shifts: range) -> Iterator[datetime]:
    if times.wake is not None:
        yield from (end for _, end in _windows(times, around, shifts))
    elif times.sleep is not None:
        yield from (moment(day, times.sleep, times.zone) for day in _days(times, around, shifts))


def _windows(times: Times, around: datetime, shifts: range) -> Iterator[tuple[datetime, datetime]]:
    if times.wake is None or times.sleep is None:
        return
    overnight = timedelta(days=1 if times.sleep <= times.wake else 0)
    for day in _days(times, around, shifts):
        start = moment(day, times.wake, times.zone)
        end = moment(day + overnight, times.sleep, times.zone)
        if start < end:  # a gap can swallow a short window whole
            yield start, end


def _days(times: Times, around: datetime, shifts: range) -> Iterator[date]:
    """The schedule's days, counted from the local day of `around`, that exist in its zone."""
    today = around.astimezone(ZoneInfo(times.zone)).date()
    for shift in shifts:
        day = today + timedelta(days=shift)
        if day.weekday() in times.weekdays and _exists(day, times.zone):
            yield day


def _exists(day: date, zone: str) -> bool:
    """False for a day that the zone left out, such as 30 December 2011 in Samoa."""
    return moment(day, time(0), zone) < moment(day + timedelta(days=1), time(0), zone)
