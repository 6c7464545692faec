"""Rows that nobody needs any more are let go: join tokens, sessions that are over, old events of workers and accounts.

What stays: each worker's present session, whatever is said of jobs and their attempts (they are their owners' own), and
the events of instances, from which their bills are made.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import F, QuerySet

from core.models import Event
from pool.models import AccountUse, EnrollmentToken, Session

BATCH = 500
"""Rows of one kind that one run lets go, in a transaction of their own: the next run is seconds away."""

TOKENS_KEPT = timedelta(days=30)
"""After they have expired: until then somebody may ask which worker a token became."""

SESSIONS_KEPT = timedelta(days=366)
USE_KEPT = timedelta(days=36)
"""The plan looks back four weeks, and a reset that is moved one."""

OF = ("worker", "account", "alert", "start")


def rows_forget(*, now: datetime) -> int:
    """Let go what is due; returns how many rows that were. Two at once are safe: gone is gone."""
    over = Session.objects.filter(ended_at__lt=now - SESSIONS_KEPT, epoch__lt=F("worker__epoch"))
    gone = _delete(EnrollmentToken.objects.filter(expires_at__lt=now - TOKENS_KEPT).order_by("pk"))
    gone += _delete(over.order_by("pk"))
    gone += _delete(AccountUse.objects.filter(at__lt=now - USE_KEPT).order_by("pk"))
    if settings.EVENTS_DAYS:
        old = now - timedelta(days=settings.EVENTS_DAYS)
        gone += _delete(Event.objects.filter(at__lt=old, subject_type__in=OF).order_by("at"))
    return gone


def _delete(rows: QuerySet[Any]) -> int:
    ids = list(rows.values_list("pk", flat=True)[:BATCH])
    if ids:
        rows.model._default_manager.filter(pk__in=ids).delete()
    return len(ids)
