"""The line of a reading: as an operator reads it, and as fields where the log is JSON."""

from __future__ import annotations

import logging

from pool.models import Worker
from pool.quota import SESSION, WEEK, Reading

log = logging.getLogger(__name__)


def reading_log(worker: Worker, reading: Reading) -> None:
    """Log it, as a warning where the worker is near its limit. Money, and no limit at all, are no readings of hours."""
    if reading.model in (SESSION, WEEK):
        level = logging.INFO if reading.safe else logging.WARNING
        fields = {"fields": {"quota": reading.fields(worker.name)}}
        log.log(level, "%s", reading.line(worker.name), extra=fields)
