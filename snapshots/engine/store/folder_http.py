"""The HTTP side of a folder store, without a web framework: a request in, a reply out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from snapshots.engine.store.base import ObjectExists, ObjectMissing, StoreBusy, StoreError, StoreRefused
from snapshots.engine.store.folder import (
    BodyRefused,
    FolderStore,
    OpenedRange,
    RangeRefused,
    Readable,
)
from snapshots.engine.store.folder_signing import SignatureRefused


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer. `body` is to be sent piece by piece; Content-Length is among the headers."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Iterable[bytes] = ()


def respond(
    store: FolderStore,
    *,
    method: str,
    key: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body: Readable,
    now: float,
) -> Reply:
    """Check the signature, then store or open the object. Every StoreError becomes a status; nothing else is caught.

    key: the path behind base_url, unquoted. A reply with an unread request body must be followed by closing the connection.
    """
    try:
        grant = store.check(method, key, query, headers, now=now)
        if method == "PUT":
            store.receive(grant, body)
            return Reply(200, {"Content-Length": "0"})
        asked = {name.lower(): value for name, value in headers.items()}.get("range")
        return _opened(store.open_range(grant, asked), partial=asked is not None)
    except StoreError as error:
        return _refusal(error)


def _opened(part: OpenedRange, *, partial: bool) -> Reply:
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(part.length),
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-store",
    }
    if not (partial and part.length < part.total):
        return Reply(200, headers, part)
    headers["Content-Range"] = f"bytes {part.start}-{part.start + part.length - 1}/{part.total}"
    return Reply(206, headers, part)


def _refusal(error: StoreError) -> Reply:
    text = str(error).encode()
    headers = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(text))}
    status = next(status for kind, status in _STATUSES if isinstance(error, kind))
    if isinstance(error, RangeRefused):
        headers["Content-Range"] = f"bytes */{error.total}"
    if isinstance(error, StoreBusy) and error.retry_after_s is not None:
        headers["Retry-After"] = str(int(error.retry_after_s))
    return Reply(status, headers, (text,))


_STATUSES: tuple[tuple[type[StoreError], int], ...] = (
    (ObjectMissing, 404),
    (ObjectExists, 412),
    (StoreBusy, 503),
    (SignatureRefused, 403),
    (RangeRefused, 416),
    (BodyRefused, 400),
    (StoreRefused, 400),
    (StoreError, 500),
)
