"""What the local host has rented out, on disk: the provider's truth. No processes here; `local_host` follows it.

A box exists from the rename that puts its finished folder in place until its `box.json` is removed, the last of its
files: whatever is killed in between, it is wholly rented or not at all, and wholly gone or still listed.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from core.errors import Invalid
from core.ids import new_id
from hibernation.providers.base import (
    BoxFacts,
    Offer,
    OfferGone,
    OfferQuery,
    Phase,
    ProviderBusy,
    ProviderRefused,
)
from hibernation.providers.local_catalogue import Machine
from hibernation.providers.local_faults import FaultBook, K
from hibernation.providers.local_files import folder_sync, json_read, json_write, tree_remove

log = logging.getLogger("local_host")

BOX_FILE = "box.json"
WORKSPACE = "workspace"
AGENT_STATE = "agent-state"
HOME = "home"
SIMULATED_GPU_FILE = "simulated-gpu.json"
"""What the agent's simulated probe reads from its state directory."""

_UNFINISHED = ".new"


class Silence(Exception):
    """The caller gets no answer: its connection breaks off."""


@dataclass(kw_only=True)
class Rental:
    """One box. Times are seconds since 1970. boots_at: None for a box that never starts.

    ended: why its agent ended by itself, in words; empty while it has not. failed: and it will not come up again.
    """

    ref: str
    tenant: str
    label: str
    machine_id: str
    gpu_name: str
    region: str
    price_usd_per_h: str
    disk_bytes: int
    created_at: float
    shows_at: float
    boots_at: float | None
    environment: dict[str, str] = field(repr=False)
    running_since: float | None = None
    destroying: bool = False
    ended: str = ""
    failed: bool = False


class Rentals:
    """The boxes in `<folder>/boxes`, and the offers for the room that is left.

    boxes_limit: boxes at once on the whole host. boot_s: from the rental to the start of the agent.
    One process at a time may hold it: the host's lock sees to that.
    """

    def __init__(
        self,
        folder: Path,
        *,
        machines: Mapping[str, Machine],
        faults: FaultBook,
        boxes_limit: int,
        boot_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.folder = folder / "boxes"
        self.machines = machines
        self.faults = faults
        self.boxes_limit = boxes_limit
        self.boot_s = boot_s
        self.clock = clock
        self.by_ref: dict[str, Rental] = {}
        self._offers: dict[str, list[str]] = {machine_id: [] for machine_id in machines}
        self._load()

    def box_folder(self, ref: str) -> Path:
        return self.folder / ref

    # -- what callers ask ---------------------------------------------------------------------------

    def offers(self, query: OfferQuery) -> list[Offer]:
        """One offer for each free place of each machine that fulfils the query."""
        self._offers_renew()
        found = [
            _offer(offer_id, self.machines[machine_id], disk_bytes=query.disk_bytes)
            for machine_id, ids in self._offers.items()
            if query.disk_bytes <= self.machines[machine_id].disk_bytes
            for offer_id in ids
        ]
        return [offer for offer in found if query.admits(offer)]

    def create(
        self, offer_id: str, *, label: str, disk_bytes: int, environment: dict[str, str], tenant: str
    ) -> str:
        """Rent, and return the ref. OfferGone, ProviderBusy, ProviderRefused: nothing was rented. Silence: who knows."""
        self._offers_renew()
        machine_id = next((m for m, ids in self._offers.items() if offer_id in ids), None)
        if machine_id is None:
            raise OfferGone(f"offer {offer_id} is not to be had: it was taken, or never was")
        machine = self.machines[machine_id]
        if disk_bytes > machine.disk_bytes:
            raise ProviderRefused(
                f"{machine_id} has no disk of {disk_bytes} bytes", hint=f"at most {machine.disk_bytes} bytes"
            )
        self._create_faults(offer_id, label=label, machine_id=machine_id)
        unknown = self.faults.take(K.CREATE_UNKNOWN, label=label, machine=machine_id)
        now = self.clock()
        rental = Rental(
            ref=new_id("box"),
            tenant=tenant,
            label=label,
            machine_id=machine_id,
            gpu_name=machine.gpu_name,
            region=machine.region,
            price_usd_per_h=str(machine.total_usd_per_h(disk_bytes=disk_bytes)),
            disk_bytes=disk_bytes,
            created_at=now,
            shows_at=now + (unknown.seconds if unknown else 0),
            boots_at=self._boots_at(label=label, machine_id=machine_id, now=now),
            environment=environment,
        )
        self._furnish(rental, machine)
        self.by_ref[rental.ref] = rental
        self._offers[machine_id].remove(offer_id)
        log.info(
            "box=%s rented label=%s machine=%s usd_per_h=%s",
            rental.ref,
            label,
            machine_id,
            rental.price_usd_per_h,
        )
        if unknown:
            raise Silence
        return rental.ref

    def read(self, ref: str, *, tenant: str) -> BoxFacts | None:
        rental = self.by_ref.get(ref)
        return self._facts(rental) if rental and self._shows(rental, tenant) else None

    def listing(self, *, tenant: str) -> tuple[list[BoxFacts], int]:
        """The boxes, and how many they should be: fewer means that the listing is incomplete."""
        busy = self.faults.take(K.LISTING_BUSY)
        if busy:
            raise ProviderBusy("the list cannot be had just now", retry_after_s=busy.seconds or 1)
        shown = [rental for rental in self.by_ref.values() if self._shows(rental, tenant)]
        listed = [
            rental
            for rental in shown
            if self.faults.take(K.BOX_HIDDEN, label=rental.label, machine=rental.machine_id) is None
        ]
        facts = [self._facts(rental) for rental in listed]
        if self.faults.take(K.LISTING_INCOMPLETE):
            return facts[:-1], max(len(facts), 1)
        return facts, len(facts)

    def destroy(self, ref: str, *, tenant: str) -> None:
        """Write down that the box must go; who keeps the processes does the rest. Gone already is fine."""
        rental = self.by_ref.get(ref)
        if rental is None or rental.tenant != tenant:
            return
        match = {"label": rental.label, "machine": rental.machine_id}
        busy = self.faults.take(K.DESTROY_BUSY, **match)
        if busy:
            raise ProviderBusy("nothing can be destroyed just now", retry_after_s=busy.seconds or 1)
        if self.faults.take(K.DESTROY_IGNORED, **match):
            log.info("box=%s destroy ignored, as ordered", ref)
            return
        self.condemn(rental)

    # -- what the host does with them ---------------------------------------------------------------

    def is_offline(self, rental: Rental) -> bool:
        return self.faults.offline(rental.machine_id, now=self.clock())

    def condemn(self, rental: Rental) -> None:
        """From here on it must go, also after a crash of the host."""
        if not rental.destroying:
            rental.destroying = True
            self.write(rental)
            log.info("box=%s to be destroyed", rental.ref)

    def forget(self, rental: Rental) -> None:
        """Its folder is gone: it is not listed any more and its place is free."""
        self.by_ref.pop(rental.ref, None)
        log.info("box=%s gone", rental.ref)

    def write(self, rental: Rental) -> None:
        json_write(self.box_folder(rental.ref) / BOX_FILE, asdict(rental))

    # -- inside -------------------------------------------------------------------------------------

    def _load(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(self.folder.iterdir()):
            if path.name.endswith(_UNFINISHED):
                tree_remove(path)
                continue
            try:
                found = json_read(path / BOX_FILE)
                if found is None:  # the last step of a removal is missing
                    tree_remove(path)
                    continue
                rental = Rental(**found)
            except (ValueError, TypeError, NotADirectoryError) as error:
                raise Invalid(
                    f"{path} is not a box of this host: {error}", hint="move it elsewhere, then start again"
                ) from error
            self.by_ref[rental.ref] = rental

    def _furnish(self, rental: Rental, machine: Machine) -> None:
        """Make the box's folder beside its place and put it there in one step."""
        beside = self.folder / f"{rental.ref}{_UNFINISHED}"
        beside.mkdir(mode=0o700)
        for name in (WORKSPACE, AGENT_STATE, HOME):
            (beside / name).mkdir(mode=0o700)
        gpu = {"name": machine.gpu_name, "mem_total_bytes": machine.gpu_mem_bytes}
        json_write(beside / AGENT_STATE / SIMULATED_GPU_FILE, gpu, durable=False)
        json_write(beside / BOX_FILE, asdict(rental))
        beside.rename(self.box_folder(rental.ref))
        folder_sync(self.folder)

    def _create_faults(self, offer_id: str, *, label: str, machine_id: str) -> None:
        match = {"label": label, "machine": machine_id}
        if self.faults.take(K.CREATE_OFFER_GONE, **match):
            self._offers[machine_id].remove(offer_id)
            raise OfferGone(f"offer {offer_id} was just taken by somebody else")
        busy = self.faults.take(K.CREATE_BUSY, **match)
        if busy:
            raise ProviderBusy("too many requests", retry_after_s=busy.seconds or 1)
        if self.faults.take(K.CREATE_REFUSED, **match):
            raise ProviderRefused(
                "the account lacks credit", hint="add credit at the provider, then try again"
            )
        if self.faults.take(K.CREATE_LOST, **match):
            raise Silence

    def _boots_at(self, *, label: str, machine_id: str, now: float) -> float | None:
        if self.faults.take(K.BOOT_NEVER, label=label, machine=machine_id):
            return None
        slow = self.faults.take(K.BOOT_SLOW, label=label, machine=machine_id)
        return now + self.boot_s + (slow.seconds if slow else 0)

    def _offers_renew(self) -> None:
        """As many offers for each machine as it has free places. An offer's id is never used twice."""
        now = self.clock()
        room = max(self.boxes_limit - len(self.by_ref), 0)
        for machine_id, ids in self._offers.items():
            taken = sum(rental.machine_id == machine_id for rental in self.by_ref.values())
            free = (
                0 if self.faults.offline(machine_id, now=now) else self.machines[machine_id].capacity - taken
            )
            free = max(min(free, room), 0)
            del ids[free:]
            ids += [f"{machine_id}.{secrets.token_hex(4)}" for _ in range(free - len(ids))]

    def _shows(self, rental: Rental, tenant: str) -> bool:
        return rental.tenant == tenant and rental.shows_at <= self.clock()

    def _facts(self, rental: Rental) -> BoxFacts:
        phase, message = self._phase(rental)
        return BoxFacts(
            ref=rental.ref,
            label=rental.label,
            phase=phase,
            machine_id=rental.machine_id,
            gpu_name=rental.gpu_name,
            region=rental.region,
            price_usd_per_h=Decimal(rental.price_usd_per_h),
            created_at=datetime.fromtimestamp(rental.created_at, UTC),
            message=message,
            failed=rental.failed,
        )

    def _phase(self, rental: Rental) -> tuple[Phase, str]:
        if rental.destroying:
            return Phase.STOPPED, "being destroyed"
        if self.is_offline(rental):
            return Phase.OFFLINE, f"machine {rental.machine_id} is without power"
        if rental.ended:
            return Phase.STOPPED, rental.ended
        if rental.running_since is None:
            return Phase.LOADING, "starting"
        return Phase.RUNNING, "running"


def _offer(offer_id: str, machine: Machine, *, disk_bytes: int) -> Offer:
    return Offer(
        id=offer_id,
        machine_id=machine.machine_id,
        gpu_name=machine.gpu_name,
        gpu_count=machine.gpu_count,
        gpu_mem_bytes=machine.gpu_mem_bytes,
        region=machine.region,
        price_usd_per_h=machine.total_usd_per_h(disk_bytes=disk_bytes),
        disk_usd_per_gb_month=machine.disk_usd_per_gb_month,
        upload_usd_per_gb=machine.upload_usd_per_gb,
        download_usd_per_gb=machine.download_usd_per_gb,
        reliability=machine.reliability,
    )
