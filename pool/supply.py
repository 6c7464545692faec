"""Supply: which workers serve at which moment of the day ahead, and what an account that is opened adds to them. Pure.

The sessions of an account use up its week together, and at its reset a new week begins: whoever is near the limit before
it serves again after it, if its session still runs then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from math import inf

Day = tuple[float, ...]
"""Workers in use in each of the 24 hours of a day."""

WEEK = timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class Holding:
    """An account as the plan sees it. Hours are hours that serve: until its workers are near the limit.

    usable_h: left of its present week, week_h: of each week after that; None: no weekly limit. session_h: of a session that
    is opened; None: nothing ends it. runs_h: how long that runs, near its limit too; None: as long as it serves.
    sessions: how many of it may run at once. usual: its use by hour, in its own zone.
    """

    account_id: str
    label: str
    kind: str
    enabled: bool = True
    zone: str = "UTC"
    usable_h: float | None = None
    week_h: float | None = None
    session_h: float | None = None
    runs_h: float | None = None
    resets_at: datetime | None = None
    sessions: int = 1
    usual: Day = (0.0,) * 24


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A worker that runs. serves_h: how long its session is fit for jobs, whatever its week allows; None: for ever.

    ends_h: when its session is over; None: when it no longer serves.
    """

    account_id: str
    kind: str
    serves_h: float | None
    ends_h: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Spell:
    account_id: str
    kind: str
    begin: datetime
    end: datetime | None

    def holds(self, at: datetime) -> bool:
        return self.begin <= at and (self.end is None or at < self.end)


class Supply:
    """Who serves when: the workers that run, each with its share of its account's week, and sessions that are opened."""

    def __init__(self, holdings: Iterable[Holding], standings: Sequence[Standing], now: datetime) -> None:
        self._serving: list[_Spell] = []
        self._running: list[_Spell] = []
        of = {one.account_id: one for one in holdings}
        by_account = sorted(standings, key=lambda one: one.account_id)
        for account_id, group in groupby(by_account, key=lambda one: one.account_id):
            ones = list(group)
            for one in ones:
                self._runs(one, now, one.serves_h if one.ends_h is None else one.ends_h)
            holding = of.get(account_id)
            if holding is None or holding.usable_h is None or holding.resets_at is None:
                for one in ones:
                    self._serves(one, now, one.serves_h)
                continue
            fit_h = [inf if one.serves_h is None else one.serves_h for one in ones]
            before_h = max(0.0, _hours(now, holding.resets_at))
            this_week = shares([min(hours, before_h) for hours in fit_h], holding.usable_h)
            next_week = shares([max(0.0, hours - before_h) for hours in fit_h], holding.week_h or 0.0)
            for one, first_h, then_h in zip(ones, this_week, next_week, strict=True):
                self._serves(one, now, first_h)
                self._serves(one, holding.resets_at, then_h)

    def count(self, at: datetime, kind: str = "") -> int:
        """How many serve at that moment, of that provider."""
        return sum(spell.holds(at) for spell in self._serving if not kind or spell.kind == kind)

    def is_full(self, holding: Holding, at: datetime) -> bool:
        """Whether as many of its sessions run at that moment as may."""
        of = [spell for spell in self._running if spell.account_id == holding.account_id]
        return sum(spell.holds(at) for spell in of) >= holding.sessions

    def left(self, holding: Holding, at: datetime) -> tuple[float, datetime] | None:
        """Hours of the week of that moment that nobody takes yet, and when they lapse; None: it has no weeks."""
        if holding.usable_h is None or holding.resets_at is None:
            return None
        if at < holding.resets_at:
            return max(
                0.0, holding.usable_h - self._taken_h(holding, None, holding.resets_at)
            ), holding.resets_at
        lapse_at = holding.resets_at + WEEK
        taken_h = self._taken_h(holding, holding.resets_at, lapse_at)
        return max(0.0, (holding.week_h or 0.0) - taken_h), lapse_at

    def serves_h(self, holding: Holding, at: datetime) -> float | None:
        """How long a session of it that is opened then would serve; None: for ever."""
        week = self.left(holding, at)
        if week is None:
            return holding.session_h
        left_h, lapse_at = week
        session_h = inf if holding.session_h is None else holding.session_h
        before_h = _hours(at, lapse_at)
        following = self.left(holding, lapse_at)
        if left_h < before_h or session_h <= before_h or following is None:
            return min(session_h, left_h)
        return min(session_h, before_h + following[0])

    def open(self, holding: Holding, at: datetime) -> float | None:
        """Count one more session of it from then on; returns how long it serves."""
        serves_h = self.serves_h(holding, at)
        self._serves(holding, at, serves_h)
        self._runs(holding, at, serves_h if holding.runs_h is None else holding.runs_h)
        return serves_h

    def _serves(self, who: Holding | Standing, at: datetime, hours: float | None) -> None:
        if hours is None or hours > 0:
            self._serving.append(_spell(who, at, hours))

    def _runs(self, who: Holding | Standing, at: datetime, hours: float | None) -> None:
        self._running.append(_spell(who, at, hours))

    def _taken_h(self, holding: Holding, since: datetime | None, until: datetime) -> float:
        hours = 0.0
        for spell in self._serving:
            if spell.account_id == holding.account_id:
                begin = spell.begin if since is None else max(since, spell.begin)
                end = until if spell.end is None else min(until, spell.end)
                hours += max(0.0, _hours(begin, end))
        return hours


def shares(wishes_h: Sequence[float], budget_h: float) -> list[float]:
    """What each gets of hours that all of them use up at the same pace, until each has what it wishes or none is left."""
    got = [0.0] * len(wishes_h)
    waiting = sorted(range(len(wishes_h)), key=lambda number: wishes_h[number])
    for place, number in enumerate(waiting):
        got[number] = min(wishes_h[number], budget_h / (len(waiting) - place))
        budget_h -= got[number]
    return got


def _spell(who: Holding | Standing, at: datetime, hours: float | None) -> _Spell:
    end = None if hours is None or hours == inf else at + timedelta(hours=hours)
    return _Spell(account_id=who.account_id, kind=who.kind, begin=at, end=end)


def _hours(since: datetime, until: datetime) -> float:
    return (until - since).total_seconds() / 3600
