"""What others may read of the pool."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from pool.models import Dispatch, Job, Worker
from pool.states import OPEN, JobState

LOG_PIECE_BYTES = 256 * 1024


def dispatches_open(worker: Worker, *, kinds: Collection[str] = ()) -> QuerySet[Dispatch]:
    """What `worker` was given and has not ended, the oldest first; of these kinds, or of all."""
    rows = Dispatch.objects.filter(worker=worker, state__in=OPEN).order_by("state_since", "pk")
    return rows.filter(kind__in=kinds) if kinds else rows


def jobs_waiting_for_instances() -> QuerySet[Job]:
    """Queued jobs that name an instance: what a sleeping one could be woken for, and a running one is kept awake for."""
    return (
        Job.objects.filter(state=JobState.QUEUED).exclude(instance_ref="").order_by("-priority", "queued_at")
    )


def workers_seen_by(user: Any) -> QuerySet[Worker]:
    """The workers that a person may see: those of the shared pool and her own; staff sees all."""
    rows = Worker.objects.select_related("account", "account__owner")
    return rows if user.is_staff else rows.filter(owner=None) | rows.filter(owner=user)


@dataclass(frozen=True)
class LogPiece:
    """Output of a dispatch from `offset` on. next_offset: where to go on. done: there will be no more."""

    offset: int
    data: bytes
    next_offset: int
    done: bool


def log_read(dispatch: Dispatch, *, offset: int, limit: int = LOG_PIECE_BYTES) -> LogPiece:
    """At most `limit` bytes of a dispatch's output from `offset` on; none where it has not got that far."""
    data = b""
    before = (
        dispatch.chunks.filter(offset__lte=offset).order_by("-offset").values_list("offset", flat=True)[:1]
    )
    begin = next(iter(before), offset)
    for chunk in dispatch.chunks.filter(offset__gte=begin, offset__lt=offset + limit).order_by("offset"):
        data += bytes(chunk.data)[max(0, offset - chunk.offset) :]
    data = data[:limit]
    end = offset + len(data)
    done = dispatch.state not in OPEN and end >= dispatch.log_bytes
    return LogPiece(offset=offset, data=data, next_offset=end, done=done)
