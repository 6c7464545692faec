"""What a worker's quota lets it do, as moments: kept in its columns, so that a statement can decide by them. Pure.

A reading says what was used when it was read. Time passes between two posts, and while nothing is heard the machine is
taken to run on: so a standing says until when the worker is safe and when its session or week is used up. A silent hour
has used up an hour.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pool.quota import MONEY, OVER_SOON_H, SESSION, WEEK, Limits, Reading, reading, week_end

READ_AGAIN_S = 60.0
"""A standing older than this is read anew, so that changed limits and corrected hours count soon, whoever wrote them."""

LEAD_PART = 0.05
"""Of a short session: before its end nothing is given, but for no longer than this part of it."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """used_percent: as read. safe_until: from then on near its limit; ends_at: its session or week is used up then; None:
    never. renews_at: read it anew then; None: nothing but a post changes it. reading: what it was made of.
    """

    reading: Reading
    used_percent: float
    safe_until: datetime | None
    ends_at: datetime | None
    renews_at: datetime | None

    def at(self, now: datetime) -> Reading:
        """The reading with what is left, and whether it is safe, as of `now`; used and percent stay as they were read."""
        left_h = None
        if self.ends_at is not None:
            left_h = max(0.0, (self.ends_at - now).total_seconds() / 3600)
        safe = self.safe_until is None or now < self.safe_until
        return replace(self.reading, percent=self.used_percent, safe=safe, left_h=left_h)


def standing(
    limits: Limits,
    *,
    read_at: datetime,
    now: datetime,
    session_runtime_h: float = 0.0,
    session_estimated_h: float = 0.0,
    week_used_h: float = 0.0,
    week_estimated_h: float = 0.0,
    spent_usd_day: float = 0.0,
    spent_usd_month: float = 0.0,
    running: int = 1,
) -> Standing:
    """What was read at read_at, when the machine last posted, and what follows of it at `now` and later.

    running: how many of the account's machines run at present; its week is used up so many times as fast.
    """
    read = reading(
        limits,
        session_runtime_h=session_runtime_h,
        session_estimated_h=session_estimated_h,
        week_used_h=week_used_h,
        week_estimated_h=week_estimated_h,
        spent_usd_day=spent_usd_day,
        spent_usd_month=spent_usd_month,
    )
    pace = max(1, running)
    ends_h: list[float] = []
    safe_h: list[float] = []
    if limits.session_shutdown_h is not None:
        ends_h.append(limits.session_shutdown_h - session_runtime_h)
        if read.model == SESSION:
            safe_h.append(limits.safe_percent / 100 * limits.session_shutdown_h - session_runtime_h)
    if limits.weekly_limit_h is not None:
        ends_h.append((limits.weekly_limit_h - week_used_h) / pace)
        if read.model == WEEK:
            safe_h.append((limits.safe_percent / 100 * limits.weekly_limit_h - week_used_h) / pace)
    # A job that is given in its last moments would be ended before it has done anything.
    last_h = [h - lead_h(limits) for h in ends_h]
    safe_until = _after(read_at, [*safe_h, *last_h]) if read.safe else read_at
    return Standing(
        reading=read,
        used_percent=read.percent,
        safe_until=safe_until,
        ends_at=_after(read_at, ends_h),
        renews_at=_renews_at(limits, read, now),
    )


def lead_h(limits: Limits) -> float:
    """How long before the end of its session a worker is given nothing any more: about when its agent begins to end things."""
    if limits.session_shutdown_h is None:
        return 0.0
    return min(OVER_SOON_H, LEAD_PART * limits.session_shutdown_h)


def _after(read_at: datetime, hours: list[float]) -> datetime | None:
    return read_at + timedelta(hours=max(0.0, min(hours))) if hours else None


def _renews_at(limits: Limits, read: Reading, now: datetime) -> datetime | None:
    if read.limit is None and read.left_h is None:
        return None
    moments = [now + timedelta(seconds=READ_AGAIN_S)]
    if limits.weekly_limit_h is not None:
        moments.append(week_end(now, limits.week))
    if read.model == MONEY:
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        moments.append(midnight + timedelta(days=1))
    return min(moments)
