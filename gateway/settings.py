"""The gateway's settings, read once from the environment into one frozen object.

Every wrong value is one sentence that says which setting, what is wrong and what is wanted. A sentence never
repeats a value that may hold a secret (a key, a broker's URL).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

AGENT_KEY_MIN_BYTES = 32
"""HS256 keys shorter than the hash can be guessed from one token (RFC 7518, 3.2)."""

_T = TypeVar("_T")
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class SettingsError(ValueError):
    """What is wrong in the environment: `sentences`, one for each wrong setting."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = sentences


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """Where Django answers: a unix socket's path, or host and port. Exactly one of the two is set."""

    socket_path: str | None = None
    host: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        return f"unix:{self.socket_path}" if self.socket_path else f"http://{self.host}:{self.port}"


def _limit(default: float, *, low: float, high: float) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client, or all of them, may take of this process.

    Each is set by DORMOUSE_GATEWAY_<NAME IN CAPITALS>.
    """

    connections: int = _limit(30_000, low=16, high=1_000_000)
    """Clients connected at once; one more is closed at once. An agent keeps two, one for polls, one for the rest."""
    header_s: float = _limit(15, low=0.1, high=600)
    """From the first byte of a request's head to its last."""
    keepalive_s: float = _limit(75, low=1, high=3_600)
    """How long a connection may be silent between requests. Longer than an agent's pause between two posts."""
    client_idle_s: float = _limit(60, low=0.1, high=3_600)
    """How long a client may neither send its body nor take its answer. Not a limit on the whole transfer."""
    body_bytes: int = _limit(5 * 1024**3, low=1, high=2**50)
    """Largest body that is passed on. 5 GiB is what S3 takes in one upload."""
    web_connections: int = _limit(256, low=1, high=10_000)
    """Requests with Django at once; below gunicorn's backlog, beyond which a unix socket refuses oddly."""
    web_answer_s: float = _limit(300, low=0.1, high=86_400)
    """How long Django may neither take a body nor send its answer."""
    redis_connections: int = _limit(32, low=2, high=1_000)
    """Commands in flight at once; the others wait their turn."""
    posts_per_s: float = _limit(5, low=0.01, high=1_000_000)
    """Status posts per worker, sustained; four seconds' worth at once. The stream is memory of all."""
    drain_s: float = _limit(10, low=0, high=600)
    """How long running requests may go on after SIGTERM."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """agent_keys: key id -> HS256 key, the current one first. redis_url: a form that redis-py reads.
    log_format: text or json."""

    listen_host: str
    listen_port: int
    upstream: Upstream
    redis_url: str
    agent_keys: Mapping[str, bytes]
    trusted_proxies: int = 0
    log_format: str = "text"
    limits: Limits = field(default_factory=Limits)


def read(environ: Mapping[str, str]) -> Settings:
    """The settings in `environ`. Raises SettingsError with a sentence for every wrong one, not just the first."""
    wrong: list[str] = []

    def take(parse: Callable[[str], _T], name: str, default: str = "") -> _T | None:
        try:
            return parse(environ.get(name, "").strip() or default)
        except ValueError as error:
            wrong.append(f"{name} {error}")
            return None

    listen = take(_listen, "DORMOUSE_LISTEN", "127.0.0.1:8000")
    upstream = take(_upstream, "DORMOUSE_UPSTREAM")
    redis_url = take(_redis_url, "REDIS_URL")
    agent_keys = take(_agent_keys, "DORMOUSE_AGENT_KEYS")
    trusted_proxies = take(_count, "DORMOUSE_TRUSTED_PROXIES", "0")
    log_format = take(_log_format, "LOG_FORMAT", "text")
    limits: dict[str, Any] = {}
    for limit in fields(Limits):
        name = f"DORMOUSE_GATEWAY_{limit.name.upper()}"
        if environ.get(name, "").strip():
            whole = isinstance(limit.default, int) and not limit.name.endswith("_s")
            limits[limit.name] = take(_number(whole=whole, **limit.metadata), name)
    if (
        wrong
        or listen is None
        or upstream is None
        or not redis_url
        or not agent_keys
        or trusted_proxies is None
        or log_format is None
    ):
        raise SettingsError(wrong)
    return Settings(
        listen_host=listen[0],
        listen_port=listen[1],
        upstream=upstream,
        redis_url=redis_url,
        agent_keys=agent_keys,
        trusted_proxies=trusted_proxies,
        log_format=log_format,
        limits=Limits(**limits),
    )


def _listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("needs an IPv6 address in brackets, such as [::1]:8000")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ValueError(f"must be host:port with a port from 0 to 65535, not {text!r}")
    return host, int(port)


def _upstream(text: str) -> Upstream:
    if not text:
        raise ValueError("is not set: give the path of gunicorn's unix socket, or http://host:port")
    if text.startswith("http://"):
        try:
            host, port = _listen(text.removeprefix("http://").removesuffix("/"))
        except ValueError:
            raise ValueError(f"must be http://host:port without a path, not {text!r}") from None
        return Upstream(host=host, port=port)
    path = text.removeprefix("unix://").removeprefix("unix:")
    if "://" in path or not path.startswith("/"):
        raise ValueError(f"must be the absolute path of a unix socket or http://host:port, not {text!r}")
    # sun_path holds 108 bytes on Linux and 104 on macOS; connect() would say so only at the first request.
    if len(path.encode()) > 103:
        raise ValueError(f"is longer than the 103 bytes that a unix socket's path may have: {path!r}")
    return Upstream(socket_path=path)


def _redis_url(text: str) -> str:
    if not text:
        raise ValueError(
            "is not set: give redis://host:port/0, rediss://host:port/0 or unix:///path/of/the.sock"
        )
    parts = urlsplit(text)
    if parts.scheme in ("redis", "rediss"):
        if not parts.hostname or not re.fullmatch(r"/?\d*", parts.path):
            raise ValueError(f"must read {parts.scheme}://[user:password@]host[:port][/database number]")
        return text
    if parts.scheme in ("unix", "redis+socket"):
        if not parts.path.startswith("/"):
            raise ValueError(f"must read {parts.scheme}:///absolute/path/of/the.sock")
        # Celery says virtual_host where redis-py says db.
        query = [("db" if name == "virtual_host" else name, value) for name, value in parse_qsl(parts.query)]
        if any(name == "db" and not value.isdigit() for name, value in query):
            raise ValueError("has a database (db or virtual_host) that is not a number")
        return f"unix://{parts.netloc}{parts.path}" + (f"?{urlencode(query)}" if query else "")
    raise ValueError("must begin with redis://, rediss://, unix:/// or redis+socket:///")


def _agent_keys(text: str) -> dict[str, bytes]:
    form = "kid:base64url-key, comma separated, the current one first"
    if not text:
        raise ValueError(f"is not set: give {form}")
    found: dict[str, bytes] = {}
    for place, item in enumerate(text.split(","), start=1):
        kid, colon, encoded = item.strip().partition(":")
        if not colon or not _KEY_ID.fullmatch(kid):
            raise ValueError(f"has no readable key id in place {place}: the form is {form}")
        if kid in found:
            raise ValueError(f"names the key {kid!r} twice: each kid must be its own")
        found[kid] = _key(encoded, kid)
    return found


def _key(encoded: str, kid: str) -> bytes:
    try:
        padded = encoded.rstrip("=") + "=" * (-len(encoded.rstrip("=")) % 4)
        key = base64.b64decode(padded, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"has a key {kid!r} that is not base64url") from None
    if len(key) < AGENT_KEY_MIN_BYTES:
        raise ValueError(f"has a key {kid!r} of {len(key)} bytes: at least {AGENT_KEY_MIN_BYTES} are needed")
    return key


def _log_format(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError(f"must be text or json, not {text!r}")
    return text


def _count(text: str) -> int:
    return int(_number(whole=True, low=0, high=16)(text))


def _number(*, whole: bool, low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            kind = "whole number" if whole else "number"
            raise ValueError(f"must be a {kind} from {low:.15g} to {high:.15g}, not {text!r}")
        return value

    return parse
