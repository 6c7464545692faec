"""What others may read of the history of use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from django.db.models import QuerySet, Sum

from pool.models import Account, Sample, UtilisationHour, UtilisationMinute, Worker, WorkerDay
from pool.models.history import UtilisationBucket

DAYS_AT_MOST = 366


@dataclass
class Use:
    """Hours by day, the earliest first; days without any are left out."""

    days: list[tuple[date, float]] = field(default_factory=list)

    @property
    def total_h(self) -> float:
        return sum(hours for _, hours in self.days)


@dataclass
class AccountUse(Use):
    """The same, of all workers of an account."""

    account: Account | None = None


def worker_use(worker: Worker, *, days: int, now: datetime) -> Use:
    """A worker's hours of session runtime on each of the last `days` days (UTC), today included."""
    rows = WorkerDay.objects.filter(worker=worker, day__gt=_before(now, days)).order_by("day")
    return Use([(day, used_s / 3600) for day, used_s in rows.values_list("day", "used_s")])


def accounts_use(accounts: Iterable[Account], *, days: int, now: datetime) -> list[AccountUse]:
    """The same for each of these accounts, those without any use included. One query, whatever the number."""
    found = {account.pk: AccountUse(account=account) for account in accounts}
    rows = (
        WorkerDay.objects.filter(day__gt=_before(now, days), worker__account__in=list(found))
        .values_list("worker__account", "day")
        .annotate(hours=Sum("used_s") / 3600)
        .order_by("day")
    )
    for account_id, day, hours in rows:
        found[account_id].days.append((day, hours))
    return list(found.values())


BUCKETS: dict[str, type[UtilisationBucket]] = {"minute": UtilisationMinute, "hour": UtilisationHour}
RESOLUTIONS = ("raw", *BUCKETS)


def samples_of(
    worker: Worker, resolution: str, *, since: datetime | None, until: datetime | None
) -> QuerySet[Sample] | QuerySet[UtilisationBucket]:
    """A worker's readings, or what is kept of them by minute or hour, the newest first."""
    model: type[Sample] | type[UtilisationBucket] = BUCKETS.get(resolution, Sample)
    rows = model._default_manager.filter(worker=worker).order_by("-at", "-pk")
    if since is not None:
        rows = rows.filter(at__gte=since)
    if until is not None:
        rows = rows.filter(at__lt=until)
    return rows


def _before(now: datetime, days: int) -> date:
    return now.date() - timedelta(days=days)
