"""The gate: which workers may poll and post, in which epoch, as Django last wrote it (`keys.GATE`)."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass

from agent import wire
from gateway.answers import Refused
from gateway.tokens import Claims, expired

log = logging.getLogger("gateway.gate")

REVOKED_EPOCH = -1


@dataclass(frozen=True, slots=True)
class GateEntry:
    epoch: int
    next_in_s: float


def parse(raw: bytes | None) -> GateEntry | None:
    """The entry that Django wrote, or None where there is none. One that cannot be read counts as none: the
    worker is sent for a new token, and Django writes the entry again."""
    if raw is None:
        return None
    try:
        entry = json.loads(raw)
        epoch, next_in_s = entry["epoch"], float(entry["next_in_s"])
        if not isinstance(epoch, int) or not math.isfinite(next_in_s) or next_in_s < 0:
            raise ValueError(f"epoch {epoch!r}, next_in_s {next_in_s!r}")
    except (ValueError, TypeError, KeyError) as error:
        log.warning("gate entry unreadable, taken as absent: %s", error)
        return None
    return GateEntry(epoch=epoch, next_in_s=next_in_s)


def admit(raw: bytes | None, claims: Claims) -> GateEntry:
    """The entry of a worker that may come in.

    Raises Refused: 401 token_expired where the gate does not know the worker, 409 stand_down where it was
    revoked or where the token is of another epoch.
    """
    entry = parse(raw)
    if entry is None:
        raise expired("this worker is not known here at present")
    if entry.epoch == REVOKED_EPOCH:
        raise stand_down("this worker was revoked")
    if entry.epoch != claims.epoch:
        raise stand_down(f"this worker is in epoch {entry.epoch}, the token is of epoch {claims.epoch}")
    return entry


def stand_down(message: str) -> Refused:
    return Refused(
        409, wire.STAND_DOWN, message, hint="stop this worker's work and change nothing; enrol again"
    )
