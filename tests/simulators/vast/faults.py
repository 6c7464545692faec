"""What can be ordered to go wrong, and where it strikes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """seconds means something else for each; where it is not named it means nothing."""

    RATE_LIMITED = "rate_limited"
    """429; seconds: its Retry-After, none at 0."""
    SUCCESS_FALSE = "success_false"
    """HTTP 200 with success: false, and nothing done."""
    SERVER_ERROR = "server_error"
    """HTTP 500, and nothing done."""
    SILENCE = "silence"
    """The connection breaks off, and nothing is done."""
    GARBLED = "garbled"
    """HTTP 200 with a page of HTML."""
    OFFER_GONE = "offer_gone"
    BID_TOO_LOW = "bid_too_low"
    NO_CREDIT = "no_credit"
    CREATE_TIMES_OUT = "create_times_out"
    """Rented, and the connection breaks off; seconds: until the box shows."""
    CREATE_FALSE_BUT_RENTS = "create_false_but_rents"
    """Rented, and HTTP 200 with success: false; the new contract is in the answer where seconds is 0."""
    LISTING_EMPTY = "listing_empty"
    """success, no rows, and a total of 0."""
    LISTING_GONE = "listing_gone"
    """HTTP 410."""
    LISTING_PAGED_OFF = "listing_paged_off"
    """The first page, without a token for the next one."""
    LISTING_SHORT = "listing_short"
    """A row fewer than the total says."""
    LISTING_LACKS = "listing_lacks"
    """One box is missing, from rows and total alike."""
    STUCK_LOADING = "stuck_loading"
    OCI_ERROR = "oci_error"
    OUTBID = "outbid"
    """A box that could not be placed: stopped in all three of its states."""
    OFFLINE = "offline"
    """The machine is without a line for so many seconds."""
    FROZEN = "frozen"
    BOX_DIES = "box_dies"
    """The box is gone, so many seconds after it began to run."""
    DESTROY_IGNORED = "destroy_ignored"
    """success, and nothing done."""
    START_QUEUED = "start_queued"
    NULLS = "nulls"
    """Every field of an instance that may be null is."""


@dataclass(kw_only=True)
class Fault:
    """Empty: any. count: how often it strikes before it is used up."""

    kind: FaultKind
    endpoint: str = ""
    label: str = ""
    machine: str = ""
    seconds: float = 0.0
    count: int = 1

    def fits(self, *, endpoint: str, label: str, machine: str) -> bool:
        wanted = ((self.endpoint, endpoint), (self.label, label), (self.machine, machine))
        return all(not mine or mine == given for mine, given in wanted)


class Faults:
    """Those that are ordered, and a count of those that struck."""

    def __init__(self) -> None:
        self.ordered: list[Fault] = []
        self.struck: dict[str, int] = {}

    def add(self, fault: Fault) -> None:
        self.ordered.append(fault)

    def clear(self) -> None:
        self.ordered.clear()
        self.struck.clear()

    def find(
        self, kind: FaultKind, *, endpoint: str = "", label: str = "", machine: str = ""
    ) -> Fault | None:
        fitting = (fault for fault in self.ordered if fault.kind == kind)
        return next((f for f in fitting if f.fits(endpoint=endpoint, label=label, machine=machine)), None)

    def take(
        self, kind: FaultKind, *, endpoint: str = "", label: str = "", machine: str = ""
    ) -> Fault | None:
        """The first that fits, used once more."""
        fault = self.find(kind, endpoint=endpoint, label=label, machine=machine)
        if fault is not None:
            self.struck[kind] = self.struck.get(kind, 0) + 1
            fault.count -= 1
            if fault.count <= 0:
                self.ordered.remove(fault)
        return fault

    def take_any(self, kinds: Iterable[FaultKind], **where: str) -> Fault | None:
        return next((fault for kind in kinds if (fault := self.take(kind, **where))), None)


K = FaultKind
