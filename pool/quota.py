"""Quota: what an account allows, how much of it a worker has used, and when its week begins. Pure.

Three models. Session (Colab): the runtime of the machine's present session against the hour at which its agent ends it.
Week (Kaggle): the account's hours since its weekly reset, all its workers together. Money (rented): what was spent
against a budget. Hours are hours of session runtime throughout, percent runs from 0 to 100 and beyond.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from core.reasons import Reason, because
from pool import reasons as _reasons  # noqa: F401  registers the sentences

GAP_S = 3600.0
"""A session that grew by more than this from one report to the next was not heard for that long."""

ARRIVAL_SLACK_S = 5.0
"""How much later than another a report may arrive, without looking as if its session had begun later."""

NONE, SESSION, WEEK, MONEY = "none", "session", "week", "money"


@dataclass(frozen=True, kw_only=True)
class WeekRule:
    """When an account's week begins: weekday (0 = Monday) and hour, local time of an IANA zone."""

    weekday: int = 0
    hour: int = 0
    zone: str = "UTC"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """An account's quota. Whatever is None does not apply.

    session_limit_h: the provider ends a session then; session_shutdown_h: its agent does, a little earlier.
    safe_percent: a worker whose use is below it is safe.
    """

    kind: str
    session_limit_h: float | None = None
    session_shutdown_h: float | None = None
    weekly_limit_h: float | None = None
    safe_percent: float = 90.0
    week: WeekRule = WeekRule()
    budget_usd_per_day: float | None = None
    budget_usd_per_month: float | None = None
    check_interval_s: float = 30.0


DEFAULTS: Mapping[str, Limits] = {
    "colab": Limits(
        kind="colab", session_limit_h=12, session_shutdown_h=11.5, safe_percent=90, check_interval_s=60
    ),
    "kaggle": Limits(
        kind="kaggle",
        session_limit_h=9,
        session_shutdown_h=8.5,
        weekly_limit_h=30,
        safe_percent=70,
        check_interval_s=60,
    ),
    "vast": Limits(kind="vast"),
    "local": Limits(kind="local"),
}
"""What a new account of a kind begins with; from then on it is the account's own data."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How much of its quota a worker has used. model: which limit counts; used and limit: hours, or USD for money.

    left_h: hours until the session or the week is used up, whichever is first; None where nothing ends it.
    """

    kind: str
    model: str
    used: float
    limit: float | None
    percent: float
    safe: bool
    left_h: float | None
    period: str = ""

    def line(self, worker: str) -> str:
        """The reading as an operator reads it in the log."""
        verdict = "safe" if self.safe else "near limit"
        return f"quota {self.kind} worker={worker} {self.figures()} {verdict}"

    def figures(self) -> str:
        """What was used of which limit: "session 2.30h/11.5h (20.0%)"."""
        if self.limit is None:
            return "no limit"
        if self.model == MONEY:
            return f"{self.period} {self.used:.2f}/{self.limit:.2f} USD ({self.percent:.1f}%)"
        return f"{self.model} {self.used:.2f}h/{self.limit:g}h ({self.percent:.1f}%)"

    def why_unsafe(self) -> Reason:
        """The reason not to choose it; only asked of a reading that is not safe."""
        limit = self.limit or 0.0
        if self.model == WEEK and self.used < limit and self.left_h == 0:
            return because("session_used_up")
        if self.model == MONEY:
            return because(
                "near_budget",
                used_usd=self.used,
                limit_usd=limit,
                period=self.period,
                percent=self.percent,
            )
        code = "near_week_limit" if self.model == WEEK else "near_session_limit"
        return because(code, used_h=self.used, limit_h=limit, percent=self.percent)

    def why_too_short(self, need_h: float) -> Reason:
        """The reason why a job of need_h hours is not started on it."""
        code = "week_too_short" if self.model == WEEK else "session_too_short"
        return because(code, left_h=self.left_h or 0.0, need_h=need_h)


def reading(
    limits: Limits,
    *,
    session_runtime_h: float = 0.0,
    week_used_h: float = 0.0,
    spent_usd_day: float = 0.0,
    spent_usd_month: float = 0.0,
) -> Reading:
    """Utilisation by the limit that counts: the week's where there is one, else the session's, else the budget's.

    Safe: below safe_percent, and neither session nor week used up.
    """
    left = _left_h(limits, session_runtime_h=session_runtime_h, week_used_h=week_used_h)
    model, used, limit, period = NONE, 0.0, None, ""
    if limits.weekly_limit_h is not None:
        model, used, limit = WEEK, week_used_h, limits.weekly_limit_h
    elif limits.session_shutdown_h is not None:
        model, used, limit = SESSION, session_runtime_h, limits.session_shutdown_h
    else:
        day, month = limits.budget_usd_per_day, limits.budget_usd_per_month
        budgets = [] if day is None else [(spent_usd_day, day, "day")]
        if month is not None:
            budgets.append((spent_usd_month, month, "month"))
        if budgets:
            model = MONEY
            used, limit, period = max(budgets, key=lambda budget: _percent(budget[0], budget[1]))
    percent = _percent(used, limit)
    return Reading(
        kind=limits.kind,
        model=model,
        used=used,
        limit=limit,
        percent=percent,
        safe=percent < limits.safe_percent and (left is None or left > 0),
        left_h=left,
        period=period,
    )


def _percent(used: float, limit: float | None) -> float:
    if limit is None:
        return 0.0
    return 100.0 * used / limit if limit > 0 else 100.0


def _left_h(limits: Limits, *, session_runtime_h: float, week_used_h: float) -> float | None:
    left = []
    if limits.session_shutdown_h is not None:
        left.append(limits.session_shutdown_h - session_runtime_h)
    if limits.weekly_limit_h is not None:
        left.append(limits.weekly_limit_h - week_used_h)
    return max(0.0, min(left)) if left else None


# -- weeks ----------------------------------------------------------------------------------------


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


def split(start: datetime, end: datetime, rule: WeekRule) -> tuple[tuple[datetime, float], ...]:
    """The seconds from `start` to `end` by week: ((beginning of the week, seconds), …), the earliest first."""
    if start >= end:
        return ()
    first = week_start(start, rule)
    if first == week_start(end, rule):
        return ((first, (end - start).total_seconds()),)
    until = min(end, week_end(start, rule))
    return ((first, (until - start).total_seconds()), *split(until, end, rule))


# -- growth ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Session:
    """What is known of a machine's session. counted_s: how much of its runtime has been counted against quota."""

    started_at: datetime
    runtime_s: float = 0.0
    counted_s: float = 0.0
    last_post_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What one report adds. used: seconds by week; gap_s: how long nothing had been heard, where that was too long.

    restarted: the report is of a new session of the machine. late: it is older than what is known and changed nothing.
    """

    session: Session
    used: tuple[tuple[datetime, float], ...] = ()
    gap_s: float = 0.0
    restarted: bool = False
    late: bool = False


def growth(before: Session, *, runtime_s: float | None, at: datetime, rule: WeekRule) -> Growth:
    """What the session grew by, given that at `at` its machine reported that it had run for runtime_s.

    Reports may be lost, doubled, late and out of order: each second of a session is counted once, as soon as any
    report proves it. A machine that began again (its runtime went back, or its present session is younger than the
    last report) is a new session, counted from its own beginning.
    """
    heard = before.last_post_at
    if runtime_s is None:
        return Growth(session=replace(before, last_post_at=_later(heard, at)))
    began = at - timedelta(seconds=runtime_s)
    slack = timedelta(seconds=ARRIVAL_SLACK_S)
    if heard is not None and runtime_s < before.runtime_s and began < heard - slack:
        return Growth(session=replace(before, last_post_at=_later(heard, at)), late=True)
    restarted = heard is not None and (runtime_s < before.runtime_s or began > heard + slack)
    counted_s = 0.0 if restarted else before.counted_s
    fresh_s = max(0.0, runtime_s - counted_s)
    after = Session(
        started_at=began if restarted else before.started_at,
        runtime_s=runtime_s,
        counted_s=max(counted_s, runtime_s),
        last_post_at=_later(heard, at),
    )
    gap = fresh_s if heard is not None and not restarted and fresh_s > GAP_S else 0.0
    used = split(at - timedelta(seconds=fresh_s), at, rule)
    return Growth(session=after, used=used, gap_s=gap, restarted=restarted)


def _later(heard: datetime | None, at: datetime) -> datetime:
    return at if heard is None else max(heard, at)
