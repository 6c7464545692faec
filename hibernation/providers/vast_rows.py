"""vast.ai's rows and ours: what is asked of its search, what its offers and instances mean. Pure.

Any field of theirs may be null or missing. A row that lacks what an offer needs is no offer; an instance is one
whatever it lacks, because it is billed all the same.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from hibernation.providers.base import GB, BoxFacts, Offer, OfferQuery, Phase, gpu_key

MIB = 2**20
DISK_GB_MIN = 8
OFFERS_AT_MOST = 64
"""However many are asked for, no more come back."""

STARTING_S = 120.0
"""After a start the status reads "exited" for a while."""

_BOOTING = ("", "created", "loading", "restarting", "rebooting", "recycling")
_STOPPED = ("stopped", "exited")
_BROKEN_HOST = ("oci runtime create failed", "failed to create task", "no such container runtime")


@dataclass(frozen=True, kw_only=True)
class Demands:
    """What a machine must be, beside what the instance asks for. Traffic in $ per GB, duration until the host's contract
    with vast.ai ends. The wanted CUDA is the image's."""

    reliability: float = 0.95
    duration_s: int = 3 * 24 * 3600
    inet_mbps: float = 100.0
    traffic_usd_per_gb: float = 0.02
    cuda: float = 12.8


def disk_gb(disk_bytes: int) -> int:
    """The disk to ask for: whole GB, not less than was wanted, and not less than vast.ai lets."""
    return max(DISK_GB_MIN, math.ceil(disk_bytes / GB))


def search(query: OfferQuery, demands: Demands, *, gpu_names: Collection[str]) -> dict[str, Any]:
    """The body of a search. gpu_names: vast.ai's own spellings of the GPU that is wanted, empty for any.

    Machines that are not wanted are left out afterwards, so that one answer serves every caller for a while.
    """
    body: dict[str, Any] = {
        "verified": {"eq": True},
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "external": {"eq": False},
        "num_gpus": {"eq": query.gpu_count},
        "reliability": {"gte": demands.reliability},
        "duration": {"gte": demands.duration_s},
        "disk_space": {"gte": disk_gb(query.disk_bytes)},
        "inet_up": {"gte": demands.inet_mbps},
        "inet_down": {"gte": demands.inet_mbps},
        "inet_up_cost": {"lte": demands.traffic_usd_per_gb},
        "inet_down_cost": {"lte": demands.traffic_usd_per_gb},
        "cuda_max_good": {"gte": demands.cuda},
        "order": [["dph_total", "asc"]],
        "limit": OFFERS_AT_MOST,
        "type": "on-demand",
        "allocated_storage": disk_gb(query.disk_bytes),
    }
    if gpu_names:
        body["gpu_name"] = {"in": sorted(gpu_names)}
    if query.region:
        body["geolocation"] = {"in": [query.region.upper()]}
    if query.price_cap_usd_per_h is not None:
        body["dph_total"] = {"lte": float(query.price_cap_usd_per_h)}
    return body


def gpu_names_for(gpu_type: str, known: Collection[str]) -> list[str]:
    """Those of vast.ai's names that mean this GPU."""
    return sorted(name for name in known if gpu_key(name) == gpu_key(gpu_type))


def offer_of(row: Mapping[str, Any], *, disk_bytes: int) -> Offer | None:
    """disk_bytes: of the query. None where the row lacks what tells an offer and its price."""
    price, mem_mib = money(row.get("dph_total")), number(row.get("gpu_ram"))
    known = all(row.get(name) not in (None, "") for name in ("id", "machine_id", "gpu_name", "num_gpus"))
    if price is None or mem_mib is None or not known:
        return None
    reliability = number(row.get("reliability2"))
    return Offer(
        id=str(row["id"]),
        machine_id=str(row["machine_id"]),
        gpu_name=str(row["gpu_name"]),
        gpu_count=int(row["num_gpus"]),
        gpu_mem_bytes=int(mem_mib * MIB),
        region=region_of(row.get("geolocation")),
        price_usd_per_h=price,
        disk_usd_per_gb_month=money(row.get("storage_cost")) or Decimal(0),
        upload_usd_per_gb=money(row.get("inet_up_cost")) or Decimal(0),
        download_usd_per_gb=money(row.get("inet_down_cost")) or Decimal(0),
        disk_bytes=disk_gb(disk_bytes) * GB,
        reliability=None if reliability is None else min(1.0, max(0.0, reliability)),
    )


def facts_of(row: Mapping[str, Any], *, now: datetime) -> BoxFacts:
    phase, failed, message = _phase(row, now=now)
    return BoxFacts(
        ref=str(row["id"]),
        label=text(row.get("label")),
        phase=phase,
        machine_id=text(row.get("machine_id")),
        gpu_name=text(row.get("gpu_name")),
        region=region_of(row.get("geolocation")),
        price_usd_per_h=money(row.get("dph_total")),
        created_at=_moment(row.get("start_date")),
        message=message,
        failed=failed,
    )


def _phase(row: Mapping[str, Any], *, now: datetime) -> tuple[Phase, bool, str]:
    """(phase, whether it will not come up, what to tell a person)."""
    actual, intended, present, following = (
        text(row.get(name)).casefold()
        for name in ("actual_status", "intended_status", "cur_state", "next_state")
    )
    message = text(row.get("status_msg"))[:200]
    if actual == "frozen":
        return Phase.UNKNOWN, True, f"frozen: it does nothing and its GPU is billed. {message}".strip()
    if actual in ("offline", "unknown"):
        return Phase.OFFLINE, False, message or "its host has lost the connection to vast.ai"
    if actual in _BOOTING:
        if any(word in message.casefold() for word in _BROKEN_HOST):
            return Phase.LOADING, True, message
        if intended == present == following == "stopped":
            return (
                Phase.STOPPED,
                True,
                message or "vast.ai could not place it: it is stopped and its disk is billed",
            )
        return Phase.LOADING, False, message
    if actual in _STOPPED:
        if intended != "running":
            return Phase.STOPPED, False, message or "stopped; its disk is billed"
        began = _moment(row.get("start_date"))
        if began is None or (now - began).total_seconds() < STARTING_S:
            return Phase.LOADING, False, message
        return (
            Phase.STOPPED,
            True,
            message or "it ended by itself: evicted, out of credit, or its container died",
        )
    if actual == "running":
        stopping = intended == "stopped"
        return Phase.RUNNING, False, f"stopping. {message}".strip() if stopping else message
    return Phase.UNKNOWN, False, f"{actual}. {message}".strip()


def region_of(geolocation: object) -> str:
    """The two letters of the country: "Sweden, SE" and ", SE" are "SE". Empty where it is not said."""
    last = text(geolocation).rpartition(",")[2].strip()
    return last.upper() if len(last) == 2 else ""


def money(value: object) -> Decimal | None:
    """The digits that were sent, without a float's tail; None for null, for what is no number, and below zero."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        return None
    return found if found.is_finite() and found >= 0 else None


def number(value: object) -> float | None:
    found = money(value)
    return None if found is None else float(found)


def text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _moment(value: object) -> datetime | None:
    seconds = number(value)
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (OverflowError, OSError, ValueError):
        return None
