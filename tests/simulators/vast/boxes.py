"""The boxes' processes: started, stopped and ended as the market says, by the keeper of the local provider's boxes.

A box is a folder that stands for the container's disk: `workspace` for /workspace, `agent-state` and `opt` for the rest.
What its image has is this project's own Python with its packages, and no way out to a package index.
"""

from __future__ import annotations

import json
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hibernation.providers.local_files import tree_remove
from hibernation.providers.local_keeper import Keeper, mark_of
from hibernation.providers.local_rentals import SIMULATED_GPU_FILE, Rental
from tests.simulators.vast.contracts import Contract
from tests.simulators.vast.market import Market

GRACE_S = 3.0
HOW = ("onstart", "agent", "none")
"""onstart: the container's own script. agent: this checkout's agent at once. none: no process at all."""

_MIB = 2**20
_MAIN = "/bin/sh {script} ; exec sleep 2147483647"
"""A container of one of vast.ai's SSH runtypes: the script runs beside what keeps the container up."""


class Boxes:
    def __init__(self, market: Market, *, how: str) -> None:
        self.market = market
        self.how = how
        self._keepers: dict[int, Keeper] = {}
        self._removed: set[int] = set()
        self._remover = ThreadPoolExecutor(1, thread_name_prefix="wipe")
        self._tools = market.folder / "image"
        self._tools.mkdir(parents=True, exist_ok=True)
        python = self._tools / "python3.13"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)

    def follow(self) -> bool:
        """Bring processes nearer to what the market says. True while something is in motion."""
        now = self.market.now()
        in_motion = False
        for contract in list(self.market.contracts.values()):
            keeper = self._keepers.get(contract.id)
            if keeper is not None:
                keeper.ended()
            if contract.works(now) and self.how != "none":
                in_motion |= self._up(contract, keeper)
            elif keeper is not None and not keeper.is_idle:
                keeper.end(now=time.monotonic(), at_once=not contract.lives or now < contract.offline_until)
                in_motion = True
            elif not contract.lives and contract.id not in self._removed:
                # In a thread: the market goes on while a disk with ten thousand files is wiped.
                self._keepers.pop(contract.id, None)
                self._removed.add(contract.id)
                self._remover.submit(tree_remove, self.market.box_folder(contract.id))
        return in_motion

    def end_all(self) -> bool:
        """To be called until it says True: nothing runs any more."""
        for keeper in self._keepers.values():
            keeper.ended()
            keeper.end(now=time.monotonic())
        self._remover.shutdown(wait=False, cancel_futures=True)
        return all(keeper.is_idle for keeper in self._keepers.values())

    def _up(self, contract: Contract, keeper: Keeper | None) -> bool:
        if keeper is not None and not keeper.is_idle:
            return False
        folder = self.market.box_folder(contract.id)
        self._keepers[contract.id] = keeper = Keeper(
            folder, mark=mark_of(self.market.folder, str(contract.id)), command=self._command(contract, folder),
            grace_s=GRACE_S,
        )  # fmt: skip
        gpu = {"name": contract.machine.gpu_name, "mem_total_bytes": contract.machine.gpu_ram * _MIB}
        (folder / "agent-state" / SIMULATED_GPU_FILE).write_text(json.dumps(gpu))
        keeper.start(self._rental(contract, folder))
        return True

    def _command(self, contract: Contract, folder: Path) -> list[str]:
        if self.how == "agent":
            return [sys.executable, "-m", "agent", "run", "--provider", "vast"]
        script = folder / "onstart.sh"
        script.write_text(contract.onstart)
        return ["/bin/sh", "-c", _MAIN.format(script=script)]

    def _rental(self, contract: Contract, folder: Path) -> Rental:
        image = {
            "PATH": f"{self._tools}:/usr/bin:/bin",
            "PYTHONPATH": sysconfig.get_path("purelib") if self.how == "onstart" else "",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "DORMOUSE_HOME": str(folder / "opt"),
            "DORMOUSE_PROBE": "simulated",
        }
        of_vast = {
            "CONTAINER_ID": str(contract.id),
            "CONTAINER_API_KEY": contract.container_key,
            "VAST_CONTAINERLABEL": f"C.{contract.id}",
            "PUBLIC_IPADDR": "203.0.113.7",
            "GPU_COUNT": str(contract.machine.num_gpus),
        }
        given = {name: value for name, value in contract.env.items() if not name.startswith("-")}
        return Rental(
            ref=str(contract.id),
            tenant=contract.tenant,
            label=contract.label or "",
            machine_id=str(contract.machine.machine_id),
            gpu_name=contract.machine.gpu_name,
            region="",
            price_usd_per_h=str(contract.dph_total),
            disk_bytes=int(contract.disk_gb * 1e9),
            created_at=contract.created_at,
            shows_at=contract.created_at,
            boots_at=None,
            environment={**given, **of_vast, **image},
        )
