"""The stream of status posts that the gateway writes: read in order, trimmed when stored, noticed when it was lost."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis

from agent import wire
from core import broker
from core.models import Cursor
from core.text import storable
from gateway import keys

log = logging.getLogger(__name__)

CURSOR = "status"
START = "0-0"


@dataclass(frozen=True)
class Entry:
    """One post. id: its place in the stream. at: when it arrived, by the gateway's clock. body: as it was sent."""

    id: str
    at: datetime
    post: wire.StatusPost
    body: dict[str, Any]


@dataclass(frozen=True)
class Page:
    """Entries that could be read, and the place of the last one that was looked at. bad: how many could not be read."""

    cursor: str
    last: str
    entries: tuple[Entry, ...]
    bad: int = 0

    @property
    def looked_at(self) -> int:
        return len(self.entries) + self.bad


def page_read(*, limit: int) -> Page:
    """The posts after the cursor, at most `limit`. Raises redis.RedisError while the broker is away."""
    cursor, _ = Cursor.objects.get_or_create(name=CURSOR)
    client = broker.client()
    raw = client.xrange(keys.STATUS_STREAM, min=f"({cursor.value}", count=limit)
    if not raw and _restarted(client, cursor.value):
        # The broker's data was lost and its clock is behind: what comes now would never be later than the cursor.
        log.warning("status stream begins anew: its ids are before %s", cursor.value)
        Cursor.objects.filter(name=CURSOR, value=cursor.value).update(value=START)
        return page_read(limit=limit)
    entries = []
    for entry_id, fields in raw:
        entry = _entry(entry_id, fields)
        if entry is not None:
            entries.append(entry)
    last = raw[-1][0] if raw else cursor.value
    return Page(cursor=cursor.value, last=last, entries=tuple(entries), bad=len(raw) - len(entries))


def page_take(page: Page) -> bool:
    """Move the cursor over the page, in the transaction that stores it. False where another drain took it meanwhile."""
    return Cursor.objects.filter(name=CURSOR, value=page.cursor).update(value=page.last) == 1


def page_trim(page: Page) -> None:
    """Give the memory back: everything up to the page's end is stored. Losing this call costs memory only."""
    milliseconds, _, sequence = page.last.partition("-")
    broker.tell("XTRIM", keys.STATUS_STREAM, "MINID", f"{milliseconds}-{int(sequence) + 1}")


def _restarted(client: redis.Redis, cursor: str) -> bool:
    if cursor == START:
        return False
    try:
        last = client.xinfo_stream(keys.STATUS_STREAM)["last-generated-id"]
    except redis.ResponseError:
        return False  # no stream at all: nobody has posted since
    return _place(last) < _place(cursor)


def _place(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def _entry(entry_id: str, fields: dict[str, str]) -> Entry | None:
    try:
        body = json.loads(fields["body"])
        if "\\u" in fields["body"]:
            body = storable(body)
        at = datetime.fromtimestamp(float(fields["at"]), UTC)
        return Entry(entry_id, at, wire.StatusPost.from_json(body), body)
    except (KeyError, ValueError, OverflowError, OSError, RecursionError) as error:
        log.warning("status post %s dropped: %s", entry_id, str(error)[:200])
        return None
