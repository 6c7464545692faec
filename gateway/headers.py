"""Which request target and which headers cross the gateway, in either direction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from multidict import CIMultiDict

from gateway.answers import bad_request

Pairs = Iterable[tuple[str, str]]

_HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)

# What a proxy says of the client. A client may not say it of itself; gunicorn and Django believe each of these.
_SAID_BY_PROXIES = re.compile(r"forwarded|x-forwarded-.*|x-real-ip|x-scheme|proxy")

_ADDRESS = re.compile(r"[0-9A-Fa-f:.\[\]]{2,64}")


class Target(NamedTuple):
    """A request target, every percent sign as it came. authority: set where the client sent the absolute form."""

    path: str
    query: str
    authority: str | None = None


def read_target(raw: str) -> Target:
    """`raw` is the second word of the request line. Raises Refused for what is neither a path nor an http URL."""
    authority = None
    if raw[:8].lower().startswith(("http://", "https://")):
        try:
            authority = urlsplit(raw).netloc.rpartition("@")[2]
        except ValueError:
            authority = ""
        rest = raw.split("://", 1)[1]
        cut = re.search(r"[/?]", rest)
        raw = rest[cut.start() :] if cut else "/"
        raw = raw if raw.startswith("/") else f"/{raw}"
    if not raw.startswith("/") or authority == "" or not _is_text(raw):
        raise bad_request(
            "the request target is neither a path nor an http URL", hint="percent-encode the path"
        )
    path, _, query = raw.partition("?")
    return Target(path, query, authority)


def to_web(pairs: Pairs, *, peer: str | None, trusted_proxies: int, target: Target) -> CIMultiDict[str]:
    """A request's headers as Django gets them.

    Ours, whatever the client said: X-Forwarded-For is the one address that the `trusted_proxies` nearest proxies
    vouch for, or else whoever connected to us; -Proto and -Host likewise. `Host` stays.
    """
    received = list(pairs)
    dropped = _HOP_BY_HOP | _named_by_connection(received) - {"host"} | {"expect"}
    sent: CIMultiDict[str] = CIMultiDict()
    for name, value in received:
        lower = name.lower()
        # WSGI cannot tell X_Y from X-Y, and gunicorn takes SCRIPT_NAME from a header: as nginx does, no underscore.
        if lower in dropped or "_" in lower or _SAID_BY_PROXIES.fullmatch(lower):
            continue
        sent.add(name, _text(value))
    if target.authority is not None:
        sent["Host"] = target.authority
    sent.update(_forwarded(received, peer=peer, trusted_proxies=trusted_proxies, host=sent.get("Host", "")))
    return sent


def to_client(pairs: Pairs) -> CIMultiDict[str]:
    """An answer's headers as the client gets them: all but those that belong to our connection with Django."""
    received = list(pairs)
    dropped = _HOP_BY_HOP | _named_by_connection(received)
    if any(name.lower() == "transfer-encoding" for name, _ in received):
        dropped |= {"content-length"}
    return CIMultiDict((name, _text(value)) for name, value in received if name.lower() not in dropped)


def _forwarded(
    received: list[tuple[str, str]], *, peer: str | None, trusted_proxies: int, host: str
) -> Mapping[str, str]:
    said: dict[str, list[str]] = {}
    if trusted_proxies:
        for name, value in received:
            said.setdefault(name.lower(), []).extend(part.strip() for part in value.split(","))
    # Each trusted proxy appended one address; what stands before those is the client's own invention.
    vouched = said.get("x-forwarded-for", [])[-trusted_proxies:] if trusted_proxies else []
    client = vouched[0] if vouched and _ADDRESS.fullmatch(vouched[0]) else peer
    proto = said.get("x-forwarded-proto", ["http"])[-1].lower()
    return {
        "X-Forwarded-For": client or "unknown",
        "X-Forwarded-Proto": proto if proto in ("http", "https") else "http",
        "X-Forwarded-Host": said.get("x-forwarded-host", [host])[-1] or host,
    }


def _named_by_connection(pairs: Pairs) -> frozenset[str]:
    return frozenset(
        token.strip().lower()
        for name, value in pairs
        if name.lower() == "connection"
        for token in value.split(",")
    )


def _is_text(value: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in value)


def _text(value: str) -> str:
    """`value` without undecodable bytes, which the writer would drop without a word: such a header is Latin-1."""
    return (
        value
        if value.isascii() or _is_text(value)
        else value.encode("utf-8", "surrogateescape").decode("latin-1")
    )
