"""What every periodic check shares: one row's failure is not its neighbours', and a gap in our own service is known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar

from django.db.models import Case, F, Value, When
from django.utils import timezone

from core.models import TickRun

log = logging.getLogger(__name__)

Row = TypeVar("Row")

GAP_S = 15.0
"""A tick that did not run for this long was away: whoever waits for silence starts counting anew."""


def step_each(step: Callable[[Row], object], rows: Iterable[Row]) -> int:
    """Apply `step` to each row and return how many were done. A row that raises is logged; the rest go on."""
    done = 0
    for row in rows:
        try:
            step(row)
            done += 1
        except Exception:
            log.exception("tick step %s failed for %s", getattr(step, "__qualname__", step), row)
    return done


@contextmanager
def tick(name: str, *, now: datetime | None = None) -> Iterator[datetime]:
    """Mark a run of tick `name`; yields the time since when it has run without a gap of GAP_S."""
    now = now or timezone.now()
    gap = now - timedelta(seconds=GAP_S)
    row, _ = TickRun.objects.get_or_create(name=name, defaults={"started_at": now, "resumed_at": now})
    TickRun.objects.filter(name=name).update(
        resumed_at=Case(When(started_at__lt=gap, then=Value(now)), default=F("resumed_at")), started_at=now
    )
    resumed = now if row.started_at < gap else row.resumed_at
    yield resumed
    TickRun.objects.filter(name=name).update(finished_at=timezone.now())


def resumed_at(name: str) -> datetime | None:
    """Since when tick `name` has run without a gap; None before its first run. Time before that was our own absence."""
    return TickRun.objects.filter(name=name).values_list("resumed_at", flat=True).first()
