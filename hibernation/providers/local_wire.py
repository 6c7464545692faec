"""What the local host and its callers say to each other: one JSON line each way over a unix socket.

A request counts from its final newline: what comes shorter was never asked. It carries the moment (of the machine's
monotonic clock, which all processes share) after which nobody waits for its answer any more; the host then does
nothing. So a create whose caller gave up cannot rent later, however long the host was held up.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from core.errors import DomainError
from hibernation.providers.base import (
    BoxFacts,
    CreateUnknown,
    ListingIncomplete,
    Offer,
    OfferGone,
    Phase,
    ProviderBusy,
    ProviderError,
    ProviderRefused,
)

HOST_FILE = "host.json"
"""In the host's folder: {"pid", "socket", "at"}, written again every HEARTBEAT_S while it runs."""

HEARTBEAT_S = 2.0
TIMEOUT_S = 10.0
LINE_LIMIT_BYTES = 16 * 1024 * 1024

_ERRORS: dict[str, type[ProviderError]] = {
    kind.code: kind for kind in (ProviderBusy, ListingIncomplete, OfferGone, ProviderRefused, CreateUnknown)
}


class NotSent(Exception):
    """The host was not reached: it was never asked."""


class NoAnswer(Exception):
    """The host was asked, and broke off or took too long: what it did is unknown."""


def call(folder: Path, op: str, arguments: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S) -> Any:
    """Ask the host of this folder once. Raises NotSent, NoAnswer, or the ProviderError that it answered with."""
    gives_up_at = time.monotonic() + timeout_s
    line = json.dumps({"op": op, "arguments": arguments, "gives_up_at": gives_up_at}).encode() + b"\n"
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.settimeout(timeout_s)
            connection.connect(host_facts(folder)["socket"])
            connection.sendall(line)
        except (OSError, KeyError) as error:
            raise NotSent(f"{error}") from error
        return _result(_read_line(connection, gives_up_at))


def host_facts(folder: Path) -> dict[str, Any]:
    """What the host says of itself; {} where none ever ran here."""
    try:
        found = json.loads((folder / HOST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def answer_error(error: ProviderError) -> dict[str, Any]:
    """The line that makes `call` raise this error at the other end."""
    wait_s = error.retry_after_s if isinstance(error, ProviderBusy) else None
    return {
        "error": {"code": error.code, "message": error.message, "hint": error.hint, "retry_after_s": wait_s}
    }


def answer_refused(error: DomainError) -> dict[str, Any]:
    """The same for a request that makes no sense."""
    return answer_error(ProviderRefused(error.message, hint=error.hint))


def offer_to_json(offer: Offer) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Decimal) else value for name, value in vars(offer).items()}


def offer_from_json(found: Mapping[str, Any]) -> Offer:
    values: dict[str, Any] = {
        name: Decimal(value) if "_usd_" in name else value for name, value in found.items()
    }
    return Offer(**values)


def facts_to_json(facts: BoxFacts) -> dict[str, Any]:
    created_at = facts.created_at.isoformat() if facts.created_at else None
    return {**vars(facts), "price_usd_per_h": str(facts.price_usd_per_h), "created_at": created_at}


def facts_from_json(found: Mapping[str, Any]) -> BoxFacts:
    values = dict(found)
    values["phase"] = Phase(values["phase"])
    values["price_usd_per_h"] = Decimal(values["price_usd_per_h"])
    values["created_at"] = datetime.fromisoformat(values["created_at"])
    return BoxFacts(**values)


def _read_line(connection: socket.socket, gives_up_at: float) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        left_s = gives_up_at - time.monotonic()
        if left_s <= 0:
            raise NoAnswer("it did not answer in time")
        connection.settimeout(left_s)
        try:
            piece = connection.recv(65536)
        except OSError as error:
            raise NoAnswer(f"{error}") from error
        if not piece:
            raise NoAnswer("it broke off")
        received += piece
        if len(received) > LINE_LIMIT_BYTES:
            raise NoAnswer("its answer has no end")
    return bytes(received)


def _result(line: bytes) -> Any:
    answer = json.loads(line)
    error = answer.get("error")
    if error is None:
        return answer["result"]
    kind = _ERRORS[error["code"]]
    if issubclass(kind, ProviderBusy):
        raise kind(error["message"], hint=error["hint"], retry_after_s=error["retry_after_s"])
    raise kind(error["message"], hint=error["hint"])
