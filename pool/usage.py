"""Readings: how much of its quota each worker has used, from the rows. Set-based: one query a table, whatever the number."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import F, QuerySet

from pool.models import Account, AccountWeek, Session, Worker
from pool.quota import Limits, Reading, WeekRule, reading, week_start
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


def week_used_h(accounts: Collection[Account], *, now: datetime) -> dict[str, float]:
    """Account id -> hours of its present week that its workers have used; left out where none were."""
    starts = {account.pk: week_start(now, limits_of(account).week) for account in accounts}
    if not starts:
        return {}
    used_h: dict[str, float] = {}
    rows = AccountWeek.objects.filter(
        account__in=starts, starts_at__gt=now - timedelta(days=8), starts_at__lte=now
    )
    for account_id, starts_at, used_s in rows.values_list("account_id", "starts_at", "used_s"):
        # Not only the row that begins exactly then: the account's reset may have been moved within the week.
        if starts_at >= starts[account_id]:
            used_h[account_id] = used_h.get(account_id, 0.0) + used_s / 3600
    return used_h


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What `quota.reading` and `standing.standing` are made of. read_at: when the session's runtime was posted."""

    limits: Limits
    session_runtime_h: float
    week_used_h: float
    spent: Spend
    read_at: datetime

    def reading(self) -> Reading:
        return reading(
            self.limits,
            session_runtime_h=self.session_runtime_h,
            week_used_h=self.week_used_h,
            spent_usd_day=self.spent.usd_day,
            spent_usd_month=self.spent.usd_month,
        )


def figures(workers: Iterable[Worker], *, now: datetime) -> dict[str, Figures]:
    """Worker id -> its figures. The workers come with their accounts (select_related)."""
    rows = list(workers)
    accounts = {worker.account_id: worker.account for worker in rows}
    limits = {account_id: limits_of(account) for account_id, account in accounts.items()}
    weekly = week_used_h([accounts[key] for key in limits if limits[key].weekly_limit_h is not None], now=now)
    money = spend_of([key for key, limit in limits.items() if _has_budget(limit)], now=now)
    sessions = {
        worker_id: (runtime_s, last_post_at)
        for worker_id, runtime_s, last_post_at in Session.objects.filter(
            worker__in=[worker.pk for worker in rows], epoch=F("worker__epoch")
        ).values_list("worker_id", "runtime_s", "last_post_at")
    }
    found = {}
    for worker in rows:
        runtime_s, last_post_at = sessions.get(worker.pk, (0.0, None))
        found[worker.pk] = Figures(
            limits=limits[worker.account_id],
            session_runtime_h=runtime_s / 3600,
            week_used_h=weekly.get(worker.account_id, 0.0),
            spent=money.get(worker.account_id, Spend()),
            read_at=last_post_at or now,
        )
    return found


def readings(workers: Iterable[Worker], *, now: datetime) -> dict[str, Reading]:
    """Worker id -> its reading. The workers come with their accounts (select_related)."""
    return {worker_id: one.reading() for worker_id, one in figures(workers, now=now).items()}


def _has_budget(limits: Limits) -> bool:
    return limits.budget_usd_per_day is not None or limits.budget_usd_per_month is not None
