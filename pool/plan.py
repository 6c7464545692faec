"""The capacity plan: how many workers the next day needs, and which account to open when. Pure.

What is needed in an hour is what was used at that hour of the day during the last weeks, in three levels (peak, average,
night), or what the queue needs, whichever is more. What is there are the workers that are online, each until its session
or week is near its limit (`pool.supply`). Where that is too little, the account whose hours would lapse soonest is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from zoneinfo import ZoneInfo

from core.reasons import Reason, because
from pool import plan_reasons as _reasons  # noqa: F401  registers the sentences
from pool.supply import Day, Holding, Standing, Supply

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

Part = tuple[datetime, float]
"""The beginning of a quarter of an hour, and the seconds for which an account's machines ran in it."""


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


def usual_day(parts: Sequence[Part], *, since: datetime, until: datetime, zone: str) -> Day:
    """Mean number of sessions that ran in each hour of the day, by the clock of `zone`, from `since` to `until`.

    Days before the first of them do not count: an account that is a week old has a profile of a week.
    """
    first = max(since, min((at for at, _ in parts), default=until))
    days = max(1.0, (until - first).total_seconds() / 86_400)
    place = ZoneInfo(zone)
    used = [0.0] * 24
    for at, seconds in parts:
        used[at.astimezone(place).hour] += seconds / 3600
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
    there = Supply([*(usual or ()), *holdings], standings, now)
    online = there.count(now)
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
        reason=_in_all(hours, steps, online, now),
    )


def _open(holdings: Sequence[Holding], there: Supply, needed: int, at: datetime, *, kind: str) -> list[Step]:
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


def _can_open(holding: Holding, there: Supply, at: datetime) -> bool:
    if not holding.enabled or (holding.session_h is None and holding.usable_h is None):
        return False
    if there.is_full(holding, at):
        return False
    serves_h = there.serves_h(holding, at)
    return serves_h is None or serves_h >= SHORTEST_H


def _rank(holding: Holding, there: Supply, at: datetime) -> tuple[int, float, str]:
    """Hours that lapse come first, the more of them in the less time the sooner; then sessions, the longest first."""
    week = there.left(holding, at)
    if week is None:
        return 1, -(holding.session_h or 0.0), holding.label
    left_h, lapse_at = week
    return 0, -left_h / max(1.0, _hours(at, lapse_at)), holding.label


def _why_open(holding: Holding, there: Supply, at: datetime) -> Reason:
    week = there.left(holding, at)
    if week is None:
        return because("plan_unlimited", session_h=holding.session_h or 0.0)
    left_h, lapse_at = week
    return because("plan_lapses", usable_h=left_h, resets_in_h=_hours(at, lapse_at))


def _why(holding: Holding, there: Supply, steps: Sequence[Step], now: datetime) -> Reason:
    own = next((step for step in steps if step.account_id == holding.account_id), None)
    if own is not None:
        return own.reason
    if not holding.enabled:
        return because("plan_disabled")
    if holding.session_h is None and holding.usable_h is None:
        return because("plan_no_hours")
    if there.is_full(holding, now):
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


def _hours(since: datetime, until: datetime) -> float:
    return (until - since).total_seconds() / 3600
