"""The queue as the dispatcher reads it: one row for all jobs of a tenant and priority that need the same.

Two statements, whatever the number of jobs. The first hops over the index of queued jobs from one `need_key` to the
next (a loose index scan, spelled as a recursive query, because neither database does it of itself).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.db import connection
from django.utils.dateparse import parse_datetime

from pool.models import Choice, Job
from pool.select import Need
from pool.turns import Line, Turns

JOB, CHOICE = Job._meta.db_table, Choice._meta.db_table

# The states are written out: SQLite matches a partial index by its text.
LINES = f"""
    WITH RECURSIVE keys (need_key) AS (
        SELECT * FROM (SELECT need_key FROM {JOB} WHERE state = 'queued' ORDER BY need_key LIMIT 1) AS least
        UNION ALL
        SELECT (SELECT j.need_key FROM {JOB} j WHERE j.state = 'queued' AND j.need_key > keys.need_key
                ORDER BY j.need_key LIMIT 1)
        FROM keys WHERE keys.need_key IS NOT NULL
    )
    SELECT j.need_key, j.priority, j.owner_id, j.gpu_mem_bytes, j.provider, j.expected_hours, j.instance_ref, j.labels,
           j.queued_at, (SELECT MAX(c.chosen_at) FROM {CHOICE} c WHERE c.tenant_id = j.owner_id)
    FROM keys JOIN {JOB} j ON j.id = (
        SELECT h.id FROM {JOB} h WHERE h.state = 'queued' AND h.need_key = keys.need_key
        ORDER BY h.queued_at, h.id LIMIT 1)
"""

PLACED = f"SELECT owner_id, COUNT(*) FROM {JOB} WHERE state IN ('dispatched', 'running') GROUP BY owner_id"


def queue_read() -> tuple[list[Line], Turns]:
    """Every line of the queue, and the turns in which they come."""
    lines: list[Line] = []
    served: dict[int, datetime] = {}
    running: dict[int, int] = {}
    with connection.cursor() as cursor:
        cursor.execute(LINES)
        for key, priority, tenant_id, memory, provider, hours, instance_ref, labels, at, served_at in cursor:
            need = Need(
                tenant_id=tenant_id,
                gpu_mem_bytes=memory,
                provider=provider,
                expected_hours=hours,
                instance_ref=instance_ref,
                labels=labels,
            )
            lines.append(Line(key=key, priority=priority, need=need, first_at=_moment(at)))
            if served_at is not None:
                served[tenant_id] = _moment(served_at)
        if lines:
            cursor.execute(PLACED)
            running = dict(cursor.fetchall())
    return lines, Turns(lines, running=running, served=served)


def _moment(value: Any) -> datetime:
    """SQLite gives a plain statement its text, or a moment without its zone, which is UTC."""
    moment = parse_datetime(value) if isinstance(value, str) else value
    if moment is None:
        raise ValueError(f"{value!r} is no moment")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
