"""Jobs' output on its way out of the database: piece by piece into the store, compressed; its chunks go later.

Each piece is written down before it is stored, and read by whoever asks for output as soon as its row is there
(pool.selectors_logs). Two runs at once are safe: a piece's row is unique, and an object is written once.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime, timedelta

import zstandard
from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.db.models.functions import Length

from pool.models import Dispatch, JobObject, LogPart
from pool.selectors_logs import chunks_read, extent_of
from pool.services.specs import artifacts_prefix
from pool.states import OPEN
from snapshots.services.objects import object_write

log = logging.getLogger(__name__)

PART_BYTES = 4 << 20
"""Of output in one piece; an attempt's last has less."""
CHUNKS_STAY_S = 600.0
"""In the database after they were stored: whoever is reading them goes on there."""
AT_ONCE = 20
"""Attempts in one run, and stored pieces whose chunks are removed."""
PARTS_AT_ONCE = 8
"""Of one attempt in one run: the others have their turn, too."""


def logs_store(*, now: datetime) -> int:
    """Store what can be stored; returns how many pieces were. Raises Busy where the store is away: the next run goes on."""
    moved = 0
    for dispatch in _due():
        for _ in range(PARTS_AT_ONCE):
            if not _store_next(dispatch, now=now):
                break
            moved += 1
    return moved


def chunks_remove(*, now: datetime) -> int:
    """Remove from the database what has been in the store for a while; returns of how many pieces."""
    old = LogPart.objects.filter(chunks_gone=False, stored_at__lt=now - timedelta(seconds=CHUNKS_STAY_S))
    parts = list(old.order_by("stored_at")[:AT_ONCE])
    for part in parts:
        with transaction.atomic():
            # Everything before a piece is stored or cut out, so that what ends within it is not needed.
            chunks = part.dispatch.chunks.annotate(end=F("offset") + Length("data"))
            chunks.filter(end__lte=part.offset + part.length).delete()
            LogPart.objects.filter(pk=part.pk).update(chunks_gone=True)
    return len(parts)


def _due() -> list[Dispatch]:
    rows = Dispatch.objects.filter(
        log_bytes__gt=F("log_stored_bytes"), job__isnull=False, files_gone_at=None
    ).select_related("job__owner")
    whole = Q(log_bytes__gte=F("log_stored_bytes") + PART_BYTES)
    return list(rows.filter(~Q(state__in=OPEN) | whole).order_by("state_since")[:AT_ONCE])


def _store_next(dispatch: Dispatch, *, now: datetime) -> bool:
    """Store the next piece, if there is a whole one, or a last one."""
    begin, extent = dispatch.log_stored_bytes, extent_of(dispatch)
    if extent.holds_out(begin):
        begin = extent.cut_to
    limit = PART_BYTES
    if extent.missing and begin < extent.cut_from:
        limit = min(limit, extent.cut_from - begin)
    data = chunks_read(dispatch, offset=begin, limit=limit)
    is_last = dispatch.state not in OPEN and begin + len(data) >= extent.end
    if not data and begin > dispatch.log_stored_bytes:
        # What was cut out is dealt with. Otherwise an attempt that never sends what lies behind it is due for ever, and
        # twenty of them are all that any run looks at.
        Dispatch.objects.filter(pk=dispatch.pk).update(log_stored_bytes=begin)
        dispatch.log_stored_bytes = begin
        return False
    if not data or (len(data) < limit and not is_last):
        return False
    compressed = zstandard.compress(data, 3)
    digest = hashlib.sha256(compressed).hexdigest()
    # Under its digest: what a killed run has left is either this very object or another one, which goes with the rest.
    key = f"{artifacts_prefix(dispatch)}log.{begin}.{digest}"
    JobObject.objects.get_or_create(
        key=key,
        defaults={"dispatch": dispatch, "length": len(compressed), "sha256": digest, "planned_at": now},
    )
    object_write(key, compressed)
    end = begin + len(data)
    try:
        with transaction.atomic():
            LogPart.objects.create(dispatch=dispatch, offset=begin, length=len(data), key=key, stored_at=now)
            Dispatch.objects.filter(pk=dispatch.pk).update(log_stored_bytes=end)
    except IntegrityError:
        return False  # another run was first
    dispatch.log_stored_bytes = end
    return True
