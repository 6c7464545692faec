"""Readings: how much of its quota each worker has used, from the rows. Set-based: one query a table, whatever the number."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from operator import or_

from django.db.models import Q, QuerySet, Sum

from pool.growth import Stretch
from pool.models import Account, AccountUse, AccountWeek, Worker
from pool.quota import Limits, Reading, WeekRule, reading, week_start
from pool.sessions import Runtime, overlap_s, runtimes, tails
from pool.spend import Spend, spend_of

LEAN = [
    "account_id",
    "owner_id",
    "name",
    "state",
    "state_since",
    "epoch",
    "instance_ref",
    "slots",
    "check_interval_s",
    "secret_sha256",
    "gpu_name",
    "gpu_count",
    "gpu_mem_bytes",
    "gpu_util",
    "health_url",
    "last_seen_at",
    "due_at",
    "drain_asked_at",
    "labels",
    "used_percent",
    "safe_until",
    "ends_at",
    "renews_at",
    "taken",
]


def workers_lean(workers: QuerySet[Worker]) -> list[Worker]:
    """These workers with the columns that batches need, each with its account: thousands share a handful of those."""
    rows = list(workers.only(*LEAN))
    accounts = Account.objects.in_bulk({worker.account_id for worker in rows})
    for worker in rows:
        worker.account = accounts[worker.account_id]
    return rows


def limits_of(account: Account) -> Limits:
    """The account's quota as the pure modules see it."""
    day, month = account.budget_usd_per_day, account.budget_usd_per_month
    return Limits(
        kind=account.kind,
        session_limit_h=account.session_limit_h,
        session_shutdown_h=account.session_shutdown_h,
        weekly_limit_h=account.weekly_limit_h,
        safe_percent=account.safe_percent,
        week=WeekRule(weekday=account.reset_weekday, hour=account.reset_hour, zone=account.reset_zone),
        budget_usd_per_day=float(day) if day is not None else None,
        budget_usd_per_month=float(month) if month is not None else None,
        check_interval_s=account.check_interval_s,
    )


@dataclass(frozen=True, kw_only=True)
class WeekUse:
    """Hours of an account's present week. used_h: what counts; estimated_h: how much of it no report has proven.

    own_h: as counted here. official_h, official_at: what the provider said, and when; since then it is counted here on
    top of it. official_own_h: what had been counted here by then.
    """

    used_h: float = 0.0
    estimated_h: float = 0.0
    own_h: float = 0.0
    official_h: float | None = None
    official_at: datetime | None = None
    official_own_h: float | None = None

    @property
    def difference_h(self) -> float | None:
        """By how much the provider's figure was higher than ours."""
        if self.official_h is None or self.official_own_h is None:
            return None
        return self.official_h - self.official_own_h


def week_use(accounts: Collection[Account], *, now: datetime) -> dict[str, WeekUse]:
    """Account id -> its present week. The provider's own figure wins. Two queries, whatever the number, and one more
    where a reset has been moved within the last week."""
    of = {account.pk: account for account in accounts}
    if not of:
        return {}
    rules = {key: limits_of(account).week for key, account in of.items()}
    starts = {key: week_start(now, rule) for key, rule in rules.items()}
    weeks: dict[str, list[AccountWeek]] = {}
    rows = AccountWeek.objects.filter(
        account__in=list(of), starts_at__gt=now - timedelta(days=16), starts_at__lte=now
    )
    for row in rows.order_by("starts_at"):
        weeks.setdefault(row.account_id, []).append(row)
    moved = {key: starts[key] for key, known in weeks.items() if _is_moved(known, starts[key], rules[key])}
    counted = _counted_since(moved, now=now)
    silent = tails(of, now=now)
    return {
        key: _week_use(
            [row for row in weeks.get(key, []) if row.starts_at >= start],
            silent.get(key, []),
            counted=counted.get(key),
            start=start,
            now=now,
        )
        for key, start in starts.items()
    }


def _is_moved(rows: list[AccountWeek], start: datetime, rule: WeekRule) -> bool:
    """Whether one of these weeks was counted by another reset than the present one, and reaches into the present week."""
    before = week_start(start - timedelta(hours=2), rule)
    return any(row.starts_at > before and row.starts_at != start for row in rows)


def _counted_since(starts: Mapping[str, datetime], *, now: datetime) -> dict[str, tuple[float, float]]:
    """Account id -> seconds that are proven, and estimated, since its week began; counted anew from the quarters."""
    if not starts:
        return {}
    since = reduce(or_, (Q(account=key, at__gte=start) for key, start in starts.items()))
    rows = AccountUse.objects.filter(since, at__lt=now).order_by().values_list("account_id")
    sums = rows.annotate(used=Sum("used_s"), estimated=Sum("estimated_s"))
    return {**dict.fromkeys(starts, (0.0, 0.0)), **{key: (used, guessed) for key, used, guessed in sums}}


def _week_use(
    rows: list[AccountWeek],
    silent: list[Stretch],
    *,
    counted: tuple[float, float] | None,
    start: datetime,
    now: datetime,
) -> WeekUse:
    used_s, estimated_s = counted or (sum(row.used_s for row in rows), sum(row.estimated_s for row in rows))
    tail_h = overlap_s(silent, begin=start, end=now) / 3600
    estimated_h = estimated_s / 3600 + tail_h
    own_h = used_s / 3600 + estimated_h
    told = [row for row in rows if row.official_at is not None]
    if not told:
        return WeekUse(used_h=own_h, estimated_h=estimated_h, own_h=own_h)
    last = max(told, key=lambda row: row.official_at)
    after_h = overlap_s(silent, begin=last.official_at, end=now) / 3600
    guessed_h = last.since_estimated_s / 3600 + after_h
    return WeekUse(
        used_h=(last.official_s or 0.0) / 3600 + last.since_s / 3600 + guessed_h,
        estimated_h=guessed_h,
        own_h=own_h,
        official_h=None if last.official_s is None else last.official_s / 3600,
        official_at=last.official_at,
        official_own_h=None if last.own_s is None else last.own_s / 3600,
    )


def week_used_h(accounts: Collection[Account], *, now: datetime) -> dict[str, float]:
    """Account id -> hours of its present week that count."""
    return {key: use.used_h for key, use in week_use(accounts, now=now).items()}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a reading, and a standing, are made of."""

    limits: Limits
    session: Runtime
    week: WeekUse
    spent: Spend

    def reading(self) -> Reading:
        return reading(
            self.limits,
            session_runtime_h=self.session.runtime_s / 3600,
            session_estimated_h=self.session.estimated_s / 3600,
            week_used_h=self.week.used_h,
            week_estimated_h=self.week.estimated_h,
            spent_usd_day=self.spent.usd_day,
            spent_usd_month=self.spent.usd_month,
        )


def figures(workers: Iterable[Worker], *, now: datetime) -> dict[str, Figures]:
    """Worker id -> its figures. The workers come with their accounts (select_related)."""
    rows = list(workers)
    accounts = {worker.account_id: worker.account for worker in rows}
    limits = {account_id: limits_of(account) for account_id, account in accounts.items()}
    weekly = week_use([accounts[key] for key in limits if limits[key].weekly_limit_h is not None], now=now)
    money = spend_of([key for key, limit in limits.items() if _has_budget(limit)], now=now)
    ran = runtimes(rows, now=now)
    return {
        worker.pk: Figures(
            limits=limits[worker.account_id],
            session=ran.get(worker.pk, Runtime()),
            week=weekly.get(worker.account_id, WeekUse()),
            spent=money.get(worker.account_id, Spend()),
        )
        for worker in rows
    }


def readings(workers: Iterable[Worker], *, now: datetime) -> dict[str, Reading]:
    """Worker id -> its reading. The workers come with their accounts (select_related)."""
    return {worker_id: one.reading() for worker_id, one in figures(workers, now=now).items()}


def _has_budget(limits: Limits) -> bool:
    return limits.budget_usd_per_day is not None or limits.budget_usd_per_month is not None
