"""History of use: hours by day from what sessions report, utilisation by minute and hour from readings.

Every reading is added once, whenever it arrives: readings are stored by one intake at a time, so that their ids grow
in the order in which they become visible, and a cursor says up to which id they have been added. What is older than
its time is let go in small batches by id, each a transaction of its own: nobody waits long for SQLite's one writer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import date, datetime, timedelta

from django.db import connections, models, router, transaction

from core.bulk import add_rows
from core.models import Cursor
from pool.growth import Stretch
from pool.models import Sample, UtilisationHour, UtilisationMinute, WorkerDay
from pool.models.history import UtilisationBucket

CURSOR = "utilisation"

AT_ONCE = 20_000
"""Readings that are added in one transaction."""

BATCH = 2_000
"""Rows that are let go in one transaction."""

BUDGET_S = 5.0
"""One run of the tick ends after this long; the next one goes on."""

RAW_KEPT = timedelta(hours=24)
MINUTES_KEPT = timedelta(days=7)
HOURS_KEPT = timedelta(days=366)
DAYS_KEPT = timedelta(days=5 * 366)


def days_add(proven: Iterable[tuple[str, Stretch, int]]) -> None:
    """Add runtime to its workers' days, in the transaction that counts it against quota.

    proven: worker id, a stretch that a report proved, and 1; or -1 where it turned out to be another one's.
    """
    used: dict[tuple[str, date], float] = {}
    for worker_id, (begin, end), sign in proven:
        for day, part_s in by_day(begin, end):
            used[worker_id, day] = used.get((worker_id, day), 0.0) + sign * part_s
    rows = [
        {"worker": worker_id, "day": day, "used_s": seconds}
        for (worker_id, day), seconds in sorted(used.items())
    ]
    add_rows(WorkerDay, rows, match=("worker", "day"))


def by_day(start: datetime, end: datetime) -> list[tuple[date, float]]:
    """The seconds from `start` to `end`, both UTC, by day."""
    parts = []
    while start < end:
        midnight = datetime(start.year, start.month, start.day, tzinfo=start.tzinfo) + timedelta(days=1)
        until = min(midnight, end)
        parts.append((start.date(), (until - start).total_seconds()))
        start = until
    return parts


def history_keep(*, now: datetime, budget_s: float = BUDGET_S) -> int:
    """One run of the tick: add what is new, let go what is old; returns how many rows it read or deleted.

    Two at once are safe: readings are added by whoever moves the cursor, and deleting again deletes nothing.
    """
    until_s = time.monotonic() + budget_s
    moved = 0
    while time.monotonic() < until_s:
        added = utilisation_add()
        moved += added
        if added < AT_ONCE:
            break
    added_to = _cursor()
    moved += _let_go(Sample, now - RAW_KEPT, until_s, at_most=added_to)
    moved += _let_go(UtilisationMinute, now - MINUTES_KEPT, until_s)
    moved += _let_go(UtilisationHour, now - HOURS_KEPT, until_s)
    return moved + _let_go(WorkerDay, (now - DAYS_KEPT).date(), until_s, column="day")


# -- adding ---------------------------------------------------------------------------------------------------------


def utilisation_add(*, limit: int = AT_ONCE) -> int:
    """Add the next readings to their minutes and hours; returns how many were looked at. Two statements, whatever the number."""
    start = _cursor()
    ids = Sample.objects.filter(pk__gt=start).order_by("pk").values_list("pk", flat=True)
    end = (
        next(iter(ids[limit - 1 : limit]), None)
        or Sample.objects.order_by("-pk").values_list("pk", flat=True).first()
    )
    if end is None or end <= start:
        return 0
    with transaction.atomic():
        if Cursor.objects.filter(name=CURSOR, value=str(start)).update(value=str(end)) != 1:
            return 0  # another run is at it
        _add(UtilisationMinute, "minute", start, end)
        _add(UtilisationHour, "hour", start, end)
    return Sample.objects.filter(pk__gt=start, pk__lte=end).count()


def _cursor() -> int:
    row, _ = Cursor.objects.get_or_create(name=CURSOR, defaults={"value": "0"})
    return int(row.value)


def _add(model: type[UtilisationBucket], unit: str, start: int, end: int) -> None:
    using = connections[router.db_for_write(model)]
    quote = using.ops.quote_name
    table, sample = quote(model._meta.db_table), quote(Sample._meta.db_table)
    if using.vendor == "postgresql":
        bucket, most = f"date_trunc('{unit}', at, 'UTC')", "GREATEST"
    else:
        # Times are stored as text: 2026-11-21 14:30:05.123
        length = {"minute": 16, "hour": 13}[unit]
        bucket, most = f"substr(at, 1, {length}) || '{':00:00'[(length - 13) :]}'", "max"
    larger = (
        f"CASE WHEN {table}.util_max IS NULL THEN excluded.util_max"
        f" WHEN excluded.util_max IS NULL THEN {table}.util_max"
        f" ELSE {most}({table}.util_max, excluded.util_max) END"
    )
    summed = ", ".join(
        f"{name} = {table}.{name} + excluded.{name}" for name in ("samples", "known", "util_sum")
    )
    with using.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} (worker_id, at, samples, known, util_sum, util_max) "
            f"SELECT worker_id, {bucket}, COUNT(*), COUNT(gpu_util), COALESCE(SUM(gpu_util), 0), MAX(gpu_util) "
            f"FROM {sample} WHERE id > %s AND id <= %s GROUP BY 1, 2 "
            f"ON CONFLICT (worker_id, at) DO UPDATE SET {summed}, util_max = {larger}",
            [start, end],
        )


# -- letting go -----------------------------------------------------------------------------------------------------


def _let_go(
    model: type[models.Model],
    before: datetime | date,
    until_s: float,
    *,
    column: str = "at",
    at_most: int | None = None,
) -> int:
    """Delete the oldest rows, batch by batch, as long as the last of a batch is older than `before`. Returns how many.

    Oldest by id: rows are inserted in about the order of their times, and the id is the one index that costs nothing.
    at_most: the highest id that may go.
    """
    gone = 0
    while time.monotonic() < until_s:
        rows = model._default_manager.order_by("pk").values_list("pk", column)[:BATCH]
        old = [pk for pk, at in rows if at < before and (at_most is None or pk <= at_most)]
        if not old:
            break
        deleted, _ = model._default_manager.filter(
            pk__gte=old[0], pk__lte=old[-1], **{f"{column}__lt": before}
        ).delete()
        gone += deleted
        if len(old) < BATCH:
            break
    return gone
