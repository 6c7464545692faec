"""The capacity plan: how many workers the next day needs, and which account to open when. Pure.

What is needed in an hour is what was used at that hour of the day during the last weeks, in three levels (peak, average,
night), or what the queue needs, whichever is more. What is there are the workers that are online, each until its session
or week is near its limit. Where that is too little, the account whose hours would lapse soonest is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from zoneinfo import ZoneInfo

from core.reasons import Reason, because
from pool import plan_reasons as _reasons  # noqa: F401  registers the sentences

PEAK, AVERAGE, NIGHT = "peak", "average", "night"
LEVELS = (PEAK, AVERAGE, NIGHT)

HORIZON_H = 24
SHORTEST_H = 0.5
"""A session that serves for less is not worth opening."""

PEAK_FROM = 1.25
NIGHT_TO = 0.5
"""An hour is peak from so many times the mean use on, night up to so many times."""

ROUNDING = 0.05
"""Of a worker: less is no need of another one."""

Day = tuple[float, ...]
"""Workers in use in each of the 24 hours of a day."""

Spell = tuple[datetime, datetime]


@dataclass(frozen=True, kw_only=True)
class Holding:
    """An account as the plan sees it. Hours are hours that serve: until its workers are near the limit.

    usable_h: left of its week; None: no weekly limit. session_h: of a session that is opened; None: nothing ends it.
    sessions: how many of it may run at once; running: how many do without serving, near their limit. usual: its use by
    hour, in its own zone.
    """

    account_id: str
    label: str
    kind: str
    enabled: bool = True
    zone: str = "UTC"
    usable_h: float | None = None
    session_h: float | None = None
    resets_at: datetime | None = None
    sessions: int = 1
    running: int = 0
    usual: Day = (0.0,) * 24


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A worker that is online and safe, on that account. serves_h: how long it will be; None: for ever."""

    account_id: str
    kind: str
    serves_h: float | None


@dataclass(frozen=True, kw_only=True)
class Queue:
    """Jobs that wait and run. jobs, hours: waiting, by the provider that they ask for ("": any). busy: workers with a job."""

    jobs: Mapping[str, int] = field(default_factory=dict)
    hours: Mapping[str, float] = field(default_factory=dict)
    busy: Mapping[str, int] = field(default_factory=dict)
    within_h: float = 4.0

    def workers(self, provider: str) -> int:
        """How many workers these jobs need to be done within within_h, one job at a time each."""
        jobs = self.jobs.get(provider, 0)
        return min(jobs, max(1, ceil(self.hours.get(provider, 0.0) / self.within_h))) if jobs else 0

    @property
    def workers_all(self) -> int:
        return sum(self.workers(provider) for provider in self.jobs)


@dataclass(frozen=True, kw_only=True)
class Hour:
    """One of the hours ahead. needed, there: workers; there counts what the plan opens."""

    starts_at: datetime
    level: str
    needed: int
    there: int

    @property
    def missing(self) -> int:
        return max(0, self.needed - self.there)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Open this account then. missing: how many workers were missing before that."""

    account_id: str
    label: str
    at: datetime
    serves_h: float | None
    missing: int
    reason: Reason


@dataclass(frozen=True, kw_only=True)
class Plan:
    """hours: the next day. steps: what to open, in order. reasons: account id -> why it is opened, or is not."""

    hours: tuple[Hour, ...]
    steps: tuple[Step, ...]
    levels: Mapping[str, int]
    reasons: Mapping[str, Reason]
    reason: Reason


def usual_day(spells: Sequence[Spell], *, since: datetime, until: datetime, zone: str) -> Day:
    """Mean number of sessions that ran in each hour of the day, by the clock of `zone`, from `since` to `until`.

    Days before the first of them do not count: an account that is a week old has a profile of a week.
    """
    first = max(since, min((begin for begin, _ in spells), default=until))
    days = max(1.0, (until - first).total_seconds() / 86_400)
    place = ZoneInfo(zone)
    used = [0.0] * 24
    for begin, end in spells:
        at, end = max(begin, since), min(end, until)
        while at < end:
            # In UTC, because an hour that the clock repeats is two.
            following = at.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
            upto = min(end, following)
            used[at.astimezone(place).hour] += (upto - at).total_seconds() / 3600
            at = upto
    return tuple(hours / days for hours in used)


def plan(
    holdings: Sequence[Holding],
    standings: Sequence[Standing],
    queue: Queue,
    *,
    now: datetime,
    usual: Sequence[Holding] | None = None,
    wanted: Mapping[str, int] | None = None,
) -> Plan:
    """What the next day needs, and what to open for it.

    holdings: the accounts that may be opened; usual: those whose use makes the profile (the same, where not given).
    wanted: level -> workers, in place of what was used.
    """
    starts = [
        now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=hour) for hour in range(HORIZON_H)
    ]
    used = [
        sum(one.usual[at.astimezone(ZoneInfo(one.zone)).hour] for one in (usual or holdings)) for at in starts
    ]
    named = _levels(used)
    levels = {**_workers_of(used, named), **(wanted or {})}
    there = _There(standings, now)
    steps: list[Step] = []
    hours: list[Hour] = []
    for at, level in zip(starts, named, strict=True):
        moment = max(at, now)
        waiting = moment < now + timedelta(hours=queue.within_h)
        needs = {kind: queue.workers(kind) for kind in queue.jobs if kind} if waiting else {}
        for kind, needed in needs.items():
            needed += queue.busy.get(kind, 0)
            steps += _open(holdings, there, needed, moment, kind=kind)
        needed = max(levels[level], queue.workers_all + sum(queue.busy.values()) if waiting else 0)
        steps += _open(holdings, there, needed, moment, kind="")
        hours.append(Hour(starts_at=at, level=level, needed=needed, there=there.count(moment)))
    return Plan(
        hours=tuple(hours),
        steps=tuple(steps),
        levels=levels,
        reasons={one.account_id: _why(one, there, steps, now) for one in holdings},
        reason=_in_all(hours, steps, len(standings), now),
    )


class _There:
    """Who serves when: workers that are online, and sessions that the plan opens."""

    def __init__(self, standings: Sequence[Standing], now: datetime) -> None:
        self._spells: list[tuple[str, str, datetime, datetime | None]] = [
            (one.account_id, one.kind, now, _after(now, one.serves_h)) for one in standings
        ]

    def count(self, at: datetime, kind: str = "") -> int:
        return sum(
            begin <= at and (end is None or at < end)
            for _, one, begin, end in self._spells
            if not kind or one == kind
        )

    def open(self, holding: Holding, at: datetime) -> float | None:
        serves_h = _serves_h(holding, used_h=self.opened_h(holding))
        self._spells.append((holding.account_id, holding.kind, at, _after(at, serves_h)))
        return serves_h

    def opened_h(self, holding: Holding) -> float:
        """What its sessions that run, and those that the plan opens, take of its week."""
        return sum(
            (end - begin).total_seconds() / 3600
            for account_id, _, begin, end in self._spells
            if account_id == holding.account_id and end is not None
        )

    def running(self, holding: Holding, at: datetime) -> int:
        serving = sum(
            account_id == holding.account_id and begin <= at and (end is None or at < end)
            for account_id, _, begin, end in self._spells
        )
        return holding.running + serving


def _open(holdings: Sequence[Holding], there: _There, needed: int, at: datetime, *, kind: str) -> list[Step]:
    steps: list[Step] = []
    while (missing := needed - there.count(at, kind)) > 0:
        able = [one for one in holdings if (not kind or one.kind == kind) and _can_open(one, there, at)]
        if not able:
            break
        best = min(able, key=lambda one: _rank(one, there, at))
        reason = _why_open(best, there, at)
        serves_h = there.open(best, at)
        steps.append(
            Step(
                account_id=best.account_id,
                label=best.label,
                at=at,
                serves_h=serves_h,
                missing=missing,
                reason=reason,
            )
        )
    return steps


def _can_open(holding: Holding, there: _There, at: datetime) -> bool:
    if not holding.enabled or (holding.session_h is None and holding.usable_h is None):
        return False
    if there.running(holding, at) >= holding.sessions:
        return False
    serves_h = _serves_h(holding, used_h=there.opened_h(holding))
    return serves_h is None or serves_h >= SHORTEST_H


def _serves_h(holding: Holding, *, used_h: float) -> float | None:
    parts = [] if holding.session_h is None else [holding.session_h]
    if holding.usable_h is not None:
        parts.append(max(0.0, holding.usable_h - used_h))
    return min(parts) if parts else None


def _rank(holding: Holding, there: _There, at: datetime) -> tuple[int, float, str]:
    """Hours that lapse come first, the more of them in the less time the sooner; then sessions, the longest first."""
    if holding.usable_h is None or holding.resets_at is None:
        return 1, -(holding.session_h or 0.0), holding.label
    hours = max(1.0, (holding.resets_at - at).total_seconds() / 3600)
    return 0, -(holding.usable_h - there.opened_h(holding)) / hours, holding.label


def _why_open(holding: Holding, there: _There, at: datetime) -> Reason:
    if holding.usable_h is None or holding.resets_at is None:
        return because("plan_unlimited", session_h=holding.session_h or 0.0)
    usable_h = holding.usable_h - there.opened_h(holding)
    return because("plan_lapses", usable_h=usable_h, resets_in_h=_hours(at, holding.resets_at))


def _why(holding: Holding, there: _There, steps: Sequence[Step], now: datetime) -> Reason:
    own = next((step for step in steps if step.account_id == holding.account_id), None)
    if own is not None:
        return own.reason
    if not holding.enabled:
        return because("plan_disabled")
    if holding.session_h is None and holding.usable_h is None:
        return because("plan_no_hours")
    if there.running(holding, now) >= holding.sessions:
        return because("plan_open", sessions=holding.sessions)
    if holding.usable_h is not None and holding.usable_h < SHORTEST_H:
        resets_in_h = _hours(now, holding.resets_at or now)
        return because("plan_used_up", usable_h=max(0.0, holding.usable_h), resets_in_h=resets_in_h)
    return because("plan_not_needed")


def _in_all(hours: Sequence[Hour], steps: Sequence[Step], online: int, now: datetime) -> Reason:
    short = next((hour for hour in hours if hour.missing), None)
    if steps and (short is None or steps[0].at <= max(short.starts_at, now)):
        first = steps[0]
        in_h = _hours(now, first.at)
        code = "plan_open_now" if in_h < 1 / 60 else "plan_open_later"
        known = {} if code == "plan_open_now" else {"in_h": in_h}
        return because(code, missing=first.missing, account=first.label, **known)
    if short is not None:
        in_h = max(0.0, _hours(now, short.starts_at))
        return because("plan_nothing_left", missing=short.missing, in_h=in_h)
    return because("plan_enough", online=online)


# -- levels -----------------------------------------------------------------------------------------


def _levels(used: Sequence[float]) -> list[str]:
    mean = sum(used) / len(used)
    if mean <= 0:
        return [AVERAGE] * len(used)
    return [PEAK if one >= PEAK_FROM * mean else NIGHT if one <= NIGHT_TO * mean else AVERAGE for one in used]


def _workers_of(used: Sequence[float], named: Sequence[str]) -> dict[str, int]:
    """The workers that each level needs: the mean use of its hours, rounded up."""
    workers = {}
    for level in LEVELS:
        of = [one for one, name in zip(used, named, strict=True) if name == level]
        workers[level] = ceil(sum(of) / len(of) - ROUNDING) if of else 0
    return workers


def _after(at: datetime, hours: float | None) -> datetime | None:
    return None if hours is None else at + timedelta(hours=hours)


def _hours(since: datetime, until: datetime) -> float:
    return (until - since).total_seconds() / 3600
