"""What jobs have left is let go some time after their end: artifacts, output, and then the objects in the store."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from pool.models import Dispatch, Job, JobFile, JobObject
from pool.states import OPEN
from snapshots.services.objects import URL_LIFE_S, object_delete

log = logging.getLogger(__name__)

ATTEMPTS_AT_ONCE = 50
OBJECTS_AT_ONCE = 200
UPLOADS_OVER_S = URL_LIFE_S + 3_600.0
"""After so long nothing that was signed can appear any more: the signature is over, and so is what began with it."""


def files_let_go(*, now: datetime) -> int:
    """Let go what is due; returns how many rows and objects went. Two at once are safe: gone is gone.

    First the rows, so that nothing is offered that is not there, then the objects, each remembered until it is removed.
    """
    return _attempts(now=now) + _objects(now=now)


def _attempts(*, now: datetime) -> int:
    if not settings.JOB_FILES_DAYS:
        return 0
    old = now - timedelta(days=settings.JOB_FILES_DAYS)
    due = Dispatch.objects.filter(
        ~Q(state__in=OPEN), ~_wanted(), kind=Dispatch.Kind.JOB, files_gone_at=None, state_since__lt=old
    )
    ids = list(due.order_by("state_since").values_list("pk", flat=True)[:ATTEMPTS_AT_ONCE])
    for dispatch_id in ids:
        with transaction.atomic():
            if not due.filter(pk=dispatch_id).update(files_gone_at=now):
                continue
            row = Dispatch.objects.get(pk=dispatch_id)
            row.artifacts.all().delete()
            row.log_parts.all().delete()
            row.chunks.all().delete()
            row.objects_stored.update(doomed=True)
        log.info(
            "dispatch=%s let go of what it left, %g days after its end", dispatch_id, settings.JOB_FILES_DAYS
        )
    return len(ids)


def _wanted() -> Exists:
    """Whether a job that has not ended, or one of an array, is given a file that this one left."""
    ahead = Job.objects.exclude(state__in=Job.TABLE.final)
    given = JobFile.objects.filter(source_job=OuterRef("job_id"))
    return Exists(
        given.filter(
            Exists(ahead.filter(pk=OuterRef("job_id"))) | Exists(ahead.filter(array=OuterRef("array_id")))
        )
    )


def _objects(*, now: datetime) -> int:
    settled = now - timedelta(seconds=UPLOADS_OVER_S)
    due = JobObject.objects.filter(Q(doomed=True) | Q(dispatch=None), planned_at__lt=settled)
    rows = list(due.order_by("planned_at")[:OBJECTS_AT_ONCE])
    for row in rows:
        object_delete(row.key)
        row.delete()
    return len(rows)
