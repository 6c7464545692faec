"""The port to a marketplace of GPU machines: offers, boxes, and what may be believed about them.

What real providers do shaped it. A create that timed out may have rented; a destroy that answered may have done
nothing; a listing may come short. So a create is never repeated before its label was looked for, a destroy is
believed only when a complete listing *and* a read by id show that the box is gone, and a listing is complete or it
raises. No call waits for anything: each asks once and returns, and the caller asks again later.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol
from urllib.parse import urlsplit

from core.errors import Busy, DomainError, Invalid

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_IN_A_GPU_NAME = re.compile(r"[^a-z0-9]+")
_GPU_MAKERS = ("nvidia", "geforce", "tesla")
GB = 10**9
MONTH_H = 720
_NEVER = datetime.max.replace(tzinfo=UTC)


# -- errors: is it gone, is it busy, or is it no? -----------------------------------------------------------------


class ProviderError(DomainError):
    """The provider did not do what it was asked. The subclass says what that means for the box and for the caller."""

    status = 502
    code = "provider_error"


class ProviderBusy(Busy, ProviderError):
    """Try again after retry_after_s. Nothing was done. A `core.errors.Busy`, so that a chain puts its step off."""

    code = "provider_busy"


class ListingIncomplete(ProviderBusy):
    """Some boxes may be missing from what the provider answered, so nothing follows from it, least of all absence."""

    code = "listing_incomplete"


class OfferGone(ProviderError):
    """That offer cannot be rented: somebody else has it, or it never was. Nothing was rented. Take the next one."""

    status = 409
    code = "offer_gone"


class ProviderRefused(ProviderError):
    """No, and the same request will be refused again: credentials, no credit, a bad request. The hint says what to do."""

    status = 409
    code = "provider_refused"


class CreateUnknown(ProviderError):
    """The create timed out or broke off: a box with that label may exist, and may be billed.

    Before anything else look for the label. Absence is proof only in a complete listing that was asked for
    `create_settles_s` seconds or more after the create began.
    """

    code = "create_unknown"


class StartQueued(ProviderError):
    """The box's GPU has been let to somebody else: it waits for it, perhaps for ever, and its disk is billed meanwhile."""

    status = 409
    code = "start_queued"


# -- what is asked, offered, rented ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OfferQuery:
    """What a box must have. Empty text and None: any.

    gpu_type is compared by `gpu_key`. price_cap_usd_per_h holds for the whole hourly price, with disk_bytes of disk.
    exclude_machines: machine ids that are not to be offered (banned, or tried already).
    """

    gpu_type: str = ""
    region: str = ""
    price_cap_usd_per_h: Decimal | None = None
    disk_bytes: int = 0
    gpu_count: int = 1
    exclude_machines: frozenset[str] = frozenset()

    def admits(self, offer: Offer) -> bool:
        """Whether the offer fulfils this query: every provider's answer is held to it."""
        return (
            (not self.gpu_type or gpu_key(self.gpu_type) == gpu_key(offer.gpu_name))
            and (not self.region or self.region.casefold() == offer.region.casefold())
            and (self.price_cap_usd_per_h is None or offer.price_usd_per_h <= self.price_cap_usd_per_h)
            and self.gpu_count == offer.gpu_count
            and offer.machine_id not in self.exclude_machines
        )


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A box that can be rented now. `id` is good for one rental and soon; `machine_id` is what is worth remembering.

    price_usd_per_h: all that an hour of running costs, the disk of the query included, traffic not.
    disk_usd_per_gb_month is part of it; a GB is 10^9 bytes, a month 720 hours. gpu_mem_bytes is per GPU.
    upload is what the box sends, download what it receives. disk_bytes: the disk that it comes with, where the provider
    gives more than was asked for; 0: as much as that. reliability: 0 to 1 as the provider rates the machine,
    None where it does not.
    """

    id: str
    machine_id: str
    gpu_name: str
    gpu_count: int
    gpu_mem_bytes: int
    region: str
    price_usd_per_h: Decimal
    disk_usd_per_gb_month: Decimal = Decimal(0)
    upload_usd_per_gb: Decimal = Decimal(0)
    download_usd_per_gb: Decimal = Decimal(0)
    reliability: float | None = None
    disk_bytes: int = 0

    def gpu_usd_per_h(self, *, disk_bytes: int) -> Decimal:
        """What of the price is the GPU's, where the price is with this much disk."""
        disk = self.disk_usd_per_gb_month * disk_bytes / GB / MONTH_H
        return max(Decimal(0), self.price_usd_per_h - disk)


@dataclass(frozen=True, kw_only=True)
class BoxSpec:
    """What a box is started with. Nothing in it may be a long-lived secret: the machine's owner can read it.

    label: unique, written down before the call; how a box is found again after a create that broke off.
    url, join_token: where the agent enrols, and the one-use token for it. workspace: the absolute path in the box
    that snapshots hold; empty: the provider's usual one (and always where a box is a folder of this machine).
    environment: more variables for the agent. Raises Invalid where a field cannot be right.
    """

    label: str
    disk_bytes: int
    url: str
    join_token: str = field(repr=False)
    workspace: str = ""
    agent_name: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not _LABEL.fullmatch(self.label):
            raise Invalid(f"label {self.label!r} is not 1 to 80 letters, digits, dots, dashes or underscores")
        if self.disk_bytes <= 0:
            raise Invalid(f"disk_bytes is {self.disk_bytes}: a box needs a disk")
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise Invalid(f"url {self.url!r} is not the address of a control plane")
        if self.workspace and not self.workspace.startswith("/"):
            raise Invalid(f"workspace {self.workspace!r} is not an absolute path")
        for name, value in self.agent_environment().items():
            if not _VARIABLE.fullmatch(name) or "\0" in value:
                raise Invalid(f"{name!r} cannot be a variable of the box's environment")

    def agent_environment(self) -> dict[str, str]:
        """The variables that `python -m agent run` reads, and the spec's own."""
        ours = {
            "DORMOUSE_URL": self.url,
            "DORMOUSE_JOIN_TOKEN": self.join_token,
            "DORMOUSE_WORKSPACE": self.workspace,
            "DORMOUSE_AGENT_NAME": self.agent_name,
        }
        return {**self.environment, **{name: value for name, value in ours.items() if value}}


class Phase(StrEnum):
    """How a box does, in one word for all providers. None of them means gone: gone is an absence."""

    LOADING = "loading"
    RUNNING = "running"
    STOPPED = "stopped"
    OFFLINE = "offline"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class BoxFacts:
    """What the provider says of a box that exists, and that may be billed in every phase.

    ref: the provider's own id. created_at: aware, UTC. message: the provider's words, for a person.
    failed: the provider itself says that this box will not come up; waiting for the deadline is pointless.
    """

    ref: str
    label: str
    phase: Phase
    machine_id: str = ""
    gpu_name: str = ""
    region: str = ""
    price_usd_per_h: Decimal | None = None
    created_at: datetime | None = None
    message: str = ""
    failed: bool = False


# -- the port -----------------------------------------------------------------------------------------------------


class Provider(Protocol):
    """One account at one provider. Cheap to make, safe to use from several processes at once, never waits.

    Every call may raise ProviderBusy or ProviderRefused. create_settles_s: see CreateUnknown. boot_minutes: how long a
    box that was rented may take until its agent answers. can_stop: a box can be stopped on its machine and started again.
    """

    create_settles_s: float
    boot_minutes: float = 10.0
    can_stop: bool = False

    def offers(self, query: OfferQuery) -> list[Offer]:
        """What can be rented now and fulfils the query, in no particular order; the caller ranks. [] is an answer."""
        ...

    def create(self, offer_id: str, spec: BoxSpec) -> str:
        """Rent the offer and return the box's ref at once, long before it runs. Asks the provider exactly once.

        Raises OfferGone, ProviderBusy and ProviderRefused: nothing was rented; CreateUnknown: look for the label.
        A label that is in use already is rented again: telling duplicates apart is the caller's duty, by listing.
        """
        ...

    def read(self, ref: str) -> BoxFacts | None:
        """The box, or None only where the provider says for sure that it does not exist."""
        ...

    def destroy(self, ref: str) -> None:
        """Ask for the box to go, with every byte on it. Idempotent: gone already is success. Returning is no proof."""
        ...

    def listing(self) -> list[BoxFacts]:
        """Every box of this account in every phase; complete, or ListingIncomplete is raised."""
        ...

    def stop(self, ref: str) -> None:
        """Ask for the box to stop: its disk stays and is billed, its GPU may go to somebody else. Returning is no proof."""
        raise ProviderRefused("boxes of this provider cannot be stopped", hint="hibernate it instead")

    def start(self, ref: str) -> None:
        """Ask for a stopped box to run again. Raises StartQueued where its GPU is not to be had just now."""
        raise ProviderRefused("boxes of this provider cannot be started", hint="wake it on another one")

    def find(self, label: str) -> BoxFacts | None:
        """The box with this label, from a complete listing; the oldest where there are several."""
        return next(iter(with_label(self.listing(), label)), None)


def with_label(boxes: Iterable[BoxFacts], label: str) -> list[BoxFacts]:
    """The boxes with exactly this label, oldest first (an unknown age last)."""
    found = [box for box in boxes if box.label == label]
    return sorted(found, key=lambda box: (box.created_at or _NEVER, box.ref))


def gpu_key(name: str) -> str:
    """A GPU's name without case, punctuation and maker: "NVIDIA GeForce RTX 4090" and "rtx_4090" are the same."""
    words = [word for word in _NOT_IN_A_GPU_NAME.split(name.casefold()) if word and word not in _GPU_MAKERS]
    return "".join(words)
