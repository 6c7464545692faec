"""Quota: what an account allows, how much of it a worker has used, and when its week begins. Pure.

Three models. Session (Colab): the runtime of the machine's present session against the hour at which its agent ends it.
Week (Kaggle): the account's hours since its weekly reset, all its workers together. Money (rented): what was spent
against a budget. Hours are hours of session runtime throughout, percent runs from 0 to 100 and beyond.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.reasons import Reason, because
from pool import reasons as _reasons  # noqa: F401  registers the sentences
from pool.growth import GAP_S as GAP_S
from pool.growth import Growth as Growth
from pool.growth import Session as Session
from pool.growth import growth as growth
from pool.weeks import WeekRule as WeekRule
from pool.weeks import split as split
from pool.weeks import week_end as week_end
from pool.weeks import week_start as week_start

NONE, SESSION, WEEK, MONEY = "none", "session", "week", "money"

OVER_SOON_H = 0.05
"""So near its end a session is given nothing any more: a usual grace, a first checkpoint, the agent's own margin."""

NEWS_H = 0.1
TINY = 1e-9
SHOWN_H = 0.005


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
    week: WeekRule = field(default_factory=WeekRule)
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
    estimated_h: how many of the hours used no report has proven: the machine is silent, or never says how long it has run.
    """

    kind: str
    model: str
    used: float
    limit: float | None
    percent: float
    safe: bool
    left_h: float | None
    period: str = ""
    estimated_h: float = 0.0

    def line(self, worker: str) -> str:
        """The reading as an operator reads it in the log."""
        verdict = "safe" if self.safe else "near limit"
        guessed = f" estimated {self.estimated_h:.2f}h" if self.estimated_h >= SHOWN_H else ""
        return f"quota {self.kind} worker={worker} {self.figures()} {verdict}{guessed}"

    def fields(self, worker: str) -> dict[str, str | float | bool | None]:
        """The same for machines that read logs."""
        return {
            "worker": worker,
            "provider": self.kind,
            "model": self.model,
            "used": round(self.used, 4),
            "limit": self.limit,
            "percent": round(self.percent, 2),
            "safe": self.safe,
            "left_h": None if self.left_h is None else round(self.left_h, 4),
            "estimated_h": round(self.estimated_h, 4),
        }

    def is_news(self, before: Reading) -> bool:
        """Whether somebody who read `before` in the log should read this: another tenth of an hour, or verdict."""
        if (self.safe, self.model, self.limit) != (before.safe, before.model, before.limit):
            return True
        return int(self.used / NEWS_H + TINY) != int(before.used / NEWS_H + TINY)

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
        left_h = self.left_h
        if self.model == WEEK and left_h is not None and left_h <= OVER_SOON_H and self.used + left_h < limit:
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
    session_estimated_h: float = 0.0,
    week_estimated_h: float = 0.0,
) -> Reading:
    """Utilisation by the limit that counts: the week's where there is one, else the session's, else the budget's.

    Safe: below safe_percent, and neither session nor week used up. …_estimated_h: how many of the hours are not proven.
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
        estimated_h={SESSION: session_estimated_h, WEEK: week_estimated_h}.get(model, 0.0),
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
