"""The market: who rents what. No HTTP and no processes here; `server` and `boxes` follow it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.simulators.vast.catalogue import Machine
from tests.simulators.vast.contracts import Contract
from tests.simulators.vast.faults import Faults, K
from tests.simulators.vast.rows import instance_row, offer_row

EXIT_LAG_S = 0.1
START_LAG_S = 0.2
"""After a start the status reads "exited" for a while."""


class Refusal(Exception):
    """An answer that is none of success: its HTTP status and body."""

    def __init__(self, status: int, error: str, msg: str, **more: Any) -> None:
        super().__init__(msg)
        self.status = status
        self.body = {"success": False, "error": error, "msg": msg, **more}


def no_such_ask(offer_id: object) -> Refusal:
    # The documentation says 404 or 410; this is what everybody has seen.
    text = f"error 404/3603: no_such_ask  Instance type by id {offer_id} is not available."
    return Refusal(400, "invalid_args", text, ask_id=offer_id)


def no_such_instance(contract_id: object) -> Refusal:
    return Refusal(404, "no_such_instance", f"Instance {contract_id} does not exist.")


class Market:
    """boot_s: from rental to running. clock: seconds since 1970, moved on by `forward`."""

    def __init__(
        self, folder: Path, machines: Sequence[Machine], *, boot_s: float, clock: Callable[[], float]
    ) -> None:
        self.folder = folder
        self.machines = {machine.machine_id: machine for machine in machines}
        self.faults = Faults()
        self.boot_s = boot_s
        self.contracts: dict[int, Contract] = {}
        self.credit: dict[str, float] = {}
        self.skipped_s = 0.0
        self._clock = clock
        self._offers: dict[int, int] = {}
        self._next_id = 7_000_001

    def now(self) -> float:
        return self._clock() + self.skipped_s

    def box_folder(self, contract_id: int) -> Path:
        return self.folder / "boxes" / str(contract_id)

    # -- offers -------------------------------------------------------------------------------------------------

    def offers(self, *, disk_gb: float) -> list[dict[str, Any]]:
        """One for each free place of each machine, whether anybody should want it or not."""
        self._relist()
        return [
            offer_row(offer_id, self.machines[machine_id], disk_gb=disk_gb)
            for offer_id, machine_id in self._offers.items()
        ]

    def _relist(self) -> None:
        """An offer's id is never used twice: a place that is free again is another offer."""
        now = self.now()
        for machine_id, machine in self.machines.items():
            mine = [offer_id for offer_id, of in self._offers.items() if of == machine_id]
            rented = [c for c in self.living() if c.machine.machine_id == machine_id]
            free = 0 if any(now < c.offline_until for c in rented) else machine.capacity - len(rented)
            for offer_id in mine[max(0, free) :]:
                del self._offers[offer_id]
            for _ in range(free - len(mine)):
                self._offers[self._id()] = machine_id

    # -- renting ------------------------------------------------------------------------------------------------

    def rent(self, offer_id: str, body: dict[str, Any], *, tenant: str) -> Contract:
        """Raises Refusal. Faults of the answer itself are the server's business."""
        self._relist()
        machine_id = self._offers.get(int(offer_id)) if offer_id.isdigit() else None
        if machine_id is None:
            raise no_such_ask(offer_id)
        machine, label = self.machines[machine_id], body.get("label")
        where = {"label": str(label or ""), "machine": str(machine_id)}
        self._refuse(int(offer_id), body, where)
        hidden = self.faults.find(K.CREATE_TIMES_OUT, **where)
        now = self.now()
        env = body.get("env")
        contract = Contract(
            id=self._id(),
            tenant=tenant,
            machine=machine,
            offer_id=int(offer_id),
            label=str(label) if label is not None else None,
            disk_gb=max(8.0, float(body.get("disk") or 8)),
            image=str(body.get("image") or ""),
            runtype=str(body.get("runtype") or ""),
            onstart=str(body.get("onstart") or ""),
            # A string of docker's flags is taken and not applied.
            env={str(key): str(value) for key, value in env.items()} if isinstance(env, dict) else {},
            container_key=f"ck-{secrets.token_hex(16)}",
            created_at=now,
            shows_at=now + (hidden.seconds if hidden else 0.0),
            start_date=now,
            billed_to=now,
        )
        del self._offers[int(offer_id)]
        self.contracts[contract.id] = contract
        for part in ("workspace", "agent-state", "home"):
            (self.box_folder(contract.id) / part).mkdir(parents=True)
        self._boot(contract, where)
        return contract

    def _refuse(self, offer_id: int, body: dict[str, Any], where: dict[str, str]) -> None:
        started = f"{body.get('onstart') or ''}{body.get('args_str') or ''}"
        if len(started) > 4096:
            raise Refusal(
                400, "invalid_args", f"error 400/3471: Invalid args: len(args) > 4096 ({len(started)})"
            )
        if len(str(body.get("label") or "")) > 256:
            raise Refusal(400, "label_too_long", "The label is longer than 256 characters.")
        if self.faults.take(K.OFFER_GONE, **where):
            del self._offers[offer_id]
            raise no_such_ask(offer_id)
        if self.faults.take(K.BID_TOO_LOW, **where):
            raise no_such_ask(offer_id)
        if self.faults.take(K.NO_CREDIT, **where):
            raise Refusal(400, "insufficient_credit", "Your account lacks credit; see the billing page.")

    def _boot(self, contract: Contract, where: dict[str, str]) -> None:
        now, step = contract.created_at, self.boot_s / 4
        if self.faults.take(K.OUTBID, **where):
            contract.intended = "stopped"
            contract.go(now, (0, "created"))
        elif self.faults.take(K.OCI_ERROR, **where):
            contract.status_msg = (
                "Error response from daemon: OCI runtime create failed: nvidia-container-cli"
            )
            contract.go(now, (0, "created"))
        elif self.faults.take(K.STUCK_LOADING, **where):
            contract.status_msg = "Pulling from pytorch/pytorch"
            contract.go(now, (step, "created"), (2 * step, "loading"))
        else:
            contract.go(now, (step, "created"), (2 * step, "loading"), (4 * step, "running"))

    # -- what is rented -----------------------------------------------------------------------------------------

    def living(self, tenant: str | None = None) -> list[Contract]:
        now = self.now()
        return [
            contract
            for contract in self.contracts.values()
            if contract.lives
            and tenant in (None, contract.tenant)
            and (tenant is None or contract.shows_at <= now)
        ]

    def one(self, contract_id: str, *, tenant: str) -> Contract | None:
        found = self.contracts.get(int(contract_id)) if contract_id.isdigit() else None
        return found if found in self.living(tenant) else None

    def row(self, contract: Contract) -> dict[str, Any]:
        where = {"label": contract.label or "", "machine": str(contract.machine.machine_id)}
        nulls = self.faults.take(K.NULLS, **where) is not None
        return instance_row(contract, now=self.now(), nulls=nulls)

    def listed(self, tenant: str) -> list[Contract]:
        """In order of their ids, without those that a fault hides."""
        shown = sorted(self.living(tenant), key=lambda contract: contract.id)
        return [c for c in shown if self.faults.take(K.LISTING_LACKS, label=c.label or "") is None]

    # -- changing it --------------------------------------------------------------------------------------------

    def stop(self, contract: Contract) -> None:
        contract.intended = "stopped"
        contract.go(self.now(), (EXIT_LAG_S, "exited"))

    def start(self, contract: Contract) -> None:
        contract.intended = "running"
        if self.faults.take(K.START_QUEUED, label=contract.label or ""):
            msg = "Required resources are currently unavailable, state change queued."
            raise Refusal(200, "", msg)
        now = self.now()
        contract.start_date = now
        contract.go(now, (START_LAG_S, "loading"), (START_LAG_S + self.boot_s / 4, "running"))

    def destroy(self, contract: Contract) -> None:
        contract.destroys += 1
        if not self.faults.take(K.DESTROY_IGNORED, label=contract.label or ""):
            contract.end(self.now())

    def turn(self) -> None:
        """Let time do its work: states that are due, and faults that strike a box by itself."""
        now = self.now()
        for contract in self.living():
            contract.advance(now)
            where = {"label": contract.label or "", "machine": str(contract.machine.machine_id)}
            if contract.works(now):
                dies = self.faults.find(K.BOX_DIES, **where)
                since = contract.running_since
                if dies and since is not None and now - since >= dies.seconds:
                    self.faults.take(K.BOX_DIES, **where)
                    contract.end(now)
                elif fault := self.faults.take(K.OFFLINE, **where):
                    contract.offline(now, fault.seconds)
                elif self.faults.take(K.FROZEN, **where):
                    contract.go(now, (0, "frozen"))

    def _id(self) -> int:
        self._next_id += 1
        return self._next_id
