"""Why jobs wait: one row for all jobs that wait for the same, worked out from like workers counted together.

A line is judged when it could first not be placed and every JUDGE_AGAIN_S after that, with one statement over the
pool for all of them, and one that writes what they are told.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from django.db.models import Count, F, Max, Q, Sum

from core.reasons import Reason
from pool.models import Waiting, Worker
from pool.select import Candidate, Group, why_instance, why_waiting
from pool.standing import Standing
from pool.states import WorkerState
from pool.turns import Line
from pool.usage import readings, workers_lean

log = logging.getLogger(__name__)

JUDGE_AGAIN_S = 10.0
AT_ONCE = 1_000
"""Lines that are judged in one run, those first whose reason is the oldest."""


def reasons_write(
    unplaced: Collection[Line], *, waiting: Collection[str], changed: Collection[str], now: datetime
) -> None:
    """Say why the unplaced lines wait. waiting: the keys of all lines that still have jobs; changed: of those, whose
    reason cannot be what it was, since some of their jobs were placed. What is said of lines that are gone is removed.
    """
    rows = Waiting.objects.values_list("key", "judged_at", "reason_code", "reason_params", named=True)
    said = {row.key: row for row in rows}
    gone = [key for key in said if key not in waiting]
    if gone:
        Waiting.objects.filter(pk__in=gone).delete()
    old = now - timedelta(seconds=JUDGE_AGAIN_S)
    due = [
        line
        for line in unplaced
        if line.key not in said or line.key in changed or said[line.key].judged_at <= old
    ]
    due.sort(key=lambda line: (line.key in said, said[line.key].judged_at if line.key in said else now))
    if not due[:AT_ONCE]:
        return
    told = []
    for line, reason in _reasons(due[:AT_ONCE], now=now):
        before = said.get(line.key)
        if before is None or (before.reason_code, before.reason_params) != (reason.code, dict(reason.params)):
            fields = {"tenant": line.need.tenant_id, "reason": reason.code, "params": dict(reason.params)}
            log.info(
                "select tenant=%s waits: %s",
                line.need.tenant_id,
                reason,
                extra={"fields": {"select": fields}},
            )
        told.append(Waiting(key=line.key, judged_at=now, **Waiting.reason_columns(reason)))
    Waiting.objects.bulk_create(
        told,
        update_conflicts=True,
        unique_fields=["key"],
        update_fields=["judged_at", "reason_code", "reason_params"],
    )


def _reasons(lines: Iterable[Line], *, now: datetime) -> Iterable[tuple[Line, Reason]]:
    rows = list(lines)
    hours = {line.need.expected_hours for line in rows if line.need.expected_hours is not None}
    groups = groups_read(hours=hours, now=now)
    named = {line.need.instance_ref for line in rows} - {""}
    of_instance = {one.instance_ref: one for one in candidates(instances=named, now=now)} if named else {}
    known: dict[object, Reason] = {}
    for line in rows:
        if line.need not in known:
            known[line.need] = (
                why_instance(of_instance.get(line.need.instance_ref), line.need)
                if line.need.instance_ref
                else why_waiting(groups, line.need)
            )
        yield line, known[line.need]


def groups_read(*, hours: Iterable[float], now: datetime) -> list[Group]:
    """The workers of the shared pool, counted by likeness: one statement, whatever their number.

    hours: for which it is counted how many workers have so much left.
    """
    asked = sorted(set(hours))
    online = Q(state=WorkerState.ONLINE, account__enabled=True)
    safe = online & (Q(safe_until=None) | Q(safe_until__gt=now))
    long_enough = {
        f"long_{number}": Count(
            "pk", filter=safe & (Q(ends_at=None) | Q(ends_at__gte=now + timedelta(hours=h)))
        )
        for number, h in enumerate(asked)
    }
    rows = (
        Worker.objects.filter(instance_ref="")
        .exclude(state=WorkerState.REVOKED)
        .order_by()
        .values("account__kind", "gpu_mem_bytes", "labels", "owner_id")
        .annotate(
            workers=Count("pk"),
            switched_off=Count("pk", filter=Q(account__enabled=False)),
            online=Count("pk", filter=online),
            safe=Count("pk", filter=safe),
            free_slots=Sum(F("slots") - F("taken"), filter=safe & Q(taken__lt=F("slots"))),
            endless=Count("pk", filter=safe & Q(ends_at=None)),
            last_ends_at=Max("ends_at", filter=safe),
            **long_enough,
        )
    )
    return [
        Group(
            kind=row["account__kind"],
            gpu_mem_bytes=row["gpu_mem_bytes"],
            labels=row["labels"],
            instance_ref="",
            owner_id=row["owner_id"],
            workers=row["workers"],
            switched_off=row["switched_off"],
            online=row["online"],
            safe=row["safe"],
            free_slots=row["free_slots"] or 0,
            most_left_h=None if row["endless"] else _hours(now, row["last_ends_at"]),
            long_enough={h: row[f"long_{number}"] for number, h in enumerate(asked)},
        )
        for row in rows
    ]


def _hours(now: datetime, until: datetime | None) -> float:
    return max(0.0, (until - now).total_seconds() / 3600) if until is not None else 0.0


def candidates(*, instances: Collection[str], now: datetime) -> list[Candidate]:
    """The workers of these instances ("": of the shared pool) as `pool.select` sees them, from the columns.

    For the reasons of single workers, and for the tests that hold the statement to the reference.
    """
    rows = workers_lean(Worker.objects.filter(instance_ref__in=instances).exclude(state=WorkerState.REVOKED))
    of = readings(rows, now=now)
    return [
        Candidate(
            worker_id=worker.pk,
            name=worker.name,
            kind=worker.account.kind,
            state=worker.state,
            reading=Standing(
                reading=of[worker.pk],
                used_percent=worker.used_percent,
                safe_until=worker.safe_until,
                ends_at=worker.ends_at,
                renews_at=worker.renews_at,
            ).at(now),
            epoch=worker.epoch,
            slots=worker.slots,
            taken=worker.taken,
            enabled=worker.account.enabled,
            gpu_mem_bytes=worker.gpu_mem_bytes,
            instance_ref=worker.instance_ref,
            owner_id=worker.owner_id,
            labels=worker.labels,
        )
        for worker in rows
    ]
