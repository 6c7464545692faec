"""Who gets the next job: one indexed statement, the same on SQLite and PostgreSQL (docs/design/selection.md).

It chooses what `pool.select.select` would choose, which remains the reference: tests hold one to the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection

from pool.labels import marks
from pool.models import Account, Choice, Worker
from pool.select import Group, Need

AT_ONCE = 64
"""At most so many workers are asked for in one statement: in the order in which a tenant's turn reaches them."""

FEW = 256
"""Up to so many open workers are all looked at; of more, only as many as it takes to have enough."""

WORKER, ACCOUNT, CHOICE = (model._meta.db_table for model in (Worker, Account, Choice))

OPEN = "w.state = 'online' AND w.taken < w.slots"
"""What stands in the condition of the index `worker_open`, word for word: SQLite matches a partial index by its text."""

COLUMNS = "w.id, w.name, w.epoch, a.kind, w.used_percent, w.slots, w.taken"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A worker that can take the job, as the statement found it. percent: of its quota, as last read."""

    worker_id: str
    name: str
    epoch: int
    kind: str
    percent: float
    slots: int
    taken: int


def workers_in_turn(need: Need, *, now: datetime, limit: int = 1, few: bool = False) -> list[Chosen]:
    """The workers that can take a job with `need`, in the order of its tenant's turn, `limit` of them at most.

    First those that this tenant was never given, the least used first; then those given longest ago. few: there are
    few open workers. The answer is the same; see `statement` for what it costs.
    """
    sql, parameters = statement(need, now=now, limit=limit, few=few)
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return [
            Chosen(
                worker_id=row[0],
                name=row[1],
                epoch=row[2],
                kind=row[3],
                percent=row[4],
                slots=row[5],
                taken=row[6],
            )
            for row in cursor.fetchall()
        ]


def workers_open() -> int:
    """How many workers could take some job now, counted up to one more than FEW."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT COUNT(*) FROM (SELECT 1 FROM {WORKER} w {_by_open()} WHERE {OPEN} LIMIT {FEW + 1}) AS found"
        )
        return int(cursor.fetchone()[0])


def kinds_open(*, now: datetime) -> list[Group]:
    """What kinds of workers of the shared pool are open and safe: one statement over these. Their numbers are left out."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT DISTINCT a.kind, w.gpu_mem_bytes, w.labels, w.owner_id
            FROM {WORKER} w {_by_open()} JOIN {ACCOUNT} a ON a.id = w.account_id
            WHERE {OPEN} AND w.instance_ref = '' AND a.enabled AND (w.safe_until IS NULL OR w.safe_until > %s)
            """,
            [connection.ops.adapt_datetimefield_value(now)],
        )
        return [
            Group(kind=kind, gpu_mem_bytes=memory, labels=labels, instance_ref="", owner_id=owner_id)
            for kind, memory, labels, owner_id in cursor.fetchall()
        ]


def statement(need: Need, *, now: datetime, limit: int, few: bool) -> tuple[str, list[Any]]:
    """The statement and its parameters: apart, so that tests and benchmarks can ask a database for its plan.

    Few open workers: all of them, from their index, each with the tenant's last choice of it, sorted. Many: those never
    given to the tenant from the same index, in its order; and only where these are too few, those given longest ago
    from the index of the tenant's turn, in its order. Both stop as soon as there are enough.
    """
    return _sorted(need, now, limit) if few else _walked(need, now, limit)


def _sorted(need: Need, now: datetime, limit: int) -> tuple[str, list[Any]]:
    able, given = _able(need, now=now)
    sql = f"""
        SELECT {COLUMNS} FROM {WORKER} w {_by_open()}
        JOIN {ACCOUNT} a ON a.id = w.account_id
        LEFT JOIN {CHOICE} c ON c.tenant_id = %s AND c.worker_id = w.id
        WHERE {able}
        ORDER BY c.chosen_at IS NOT NULL, c.chosen_at, w.used_percent, w.id LIMIT %s
    """
    return sql, [need.tenant_id, *given, limit]


def _walked(need: Need, now: datetime, limit: int) -> tuple[str, list[Any]]:
    able, given = _able(need, now=now)
    # CROSS JOIN: SQLite keeps the order of the tables then; to PostgreSQL it is a join like any other.
    sql = f"""
        WITH fresh AS MATERIALIZED (
            SELECT {COLUMNS} FROM {WORKER} w {_by_open()} CROSS JOIN {ACCOUNT} a
            WHERE a.id = w.account_id AND {able} AND NOT EXISTS (
                SELECT 1 FROM {CHOICE} c WHERE c.tenant_id = %s AND c.worker_id = w.id)
            ORDER BY w.used_percent, w.id LIMIT %s
        ), known AS MATERIALIZED (
            SELECT {COLUMNS}, c.chosen_at FROM {CHOICE} c CROSS JOIN {WORKER} w CROSS JOIN {ACCOUNT} a
            WHERE c.tenant_id = %s AND w.id = c.worker_id AND a.id = w.account_id AND {able}
            ORDER BY c.chosen_at, w.used_percent, w.id LIMIT %s - (SELECT COUNT(*) FROM fresh)
        )
        SELECT id, name, epoch, kind, used_percent, slots, taken, 0 AS turn, NULL AS chosen_at FROM fresh
        UNION ALL
        SELECT id, name, epoch, kind, used_percent, slots, taken, 1, chosen_at FROM known
        ORDER BY 8, 9, 5, 1
    """
    return sql, [*given, need.tenant_id, limit, need.tenant_id, *given, limit]


def _by_open() -> str:
    """SQLite prefers two equal columns of another index, and reads the busy workers with the open ones then."""
    return "INDEXED BY worker_open" if connection.vendor == "sqlite" else ""


def _able(need: Need, *, now: datetime) -> tuple[str, list[Any]]:
    """What a worker must be to take the job now."""
    moment = connection.ops.adapt_datetimefield_value
    terms = [
        f"{OPEN} AND w.instance_ref = %s",
        "a.enabled",
        "(w.safe_until IS NULL OR w.safe_until > %s)",
        "w.gpu_mem_bytes >= %s",
        "(w.owner_id IS NULL OR w.owner_id = %s)",
    ]
    given: list[Any] = [need.instance_ref, moment(now), need.gpu_mem_bytes, need.tenant_id]
    if need.provider:
        terms.append("a.kind = %s")
        given.append(need.provider)
    if need.expected_hours is not None:
        terms.append("(w.ends_at IS NULL OR w.ends_at >= %s)")
        given.append(moment(now + timedelta(hours=need.expected_hours)))
    position = "strpos" if connection.vendor == "postgresql" else "instr"
    for mark in marks(need.labels):
        terms.append(f"{position}(w.labels, %s) > 0")
        given.append(mark)
    return " AND ".join(terms), given
