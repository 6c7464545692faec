"""A simulator of its own for a test: started, given orders, looked into, ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from tests.simulators.vast.faults import FaultKind

CHECKOUT = Path(__file__).resolve().parents[3]
START_LIMIT_S = 20.0


class Simulator:
    """boxes: see `boxes.HOW`. pace: 0 unless a test is about vast.ai's rate limits."""

    def __init__(
        self,
        folder: Path,
        *,
        boxes: str = "none",
        pace: float = 0.0,
        boot_s: float = 0.05,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._flags = ["--boxes", boxes, "--pace", str(pace), "--boot-s", str(boot_s)]
        self._env = {**os.environ, **(env or {})}
        self._session = requests.Session()
        self._session.trust_env = False

    def start(self) -> Simulator:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "simulator.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.simulators.vast", str(self.folder), *self._flags],
                cwd=CHECKOUT, env=self._env, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + START_LIMIT_S
        ready = self.folder / "simulator.json"
        while not ready.exists():
            assert self.process.poll() is None, (self.folder / "simulator.log").read_text()
            assert time.monotonic() < deadline, "the simulator did not start in time"
            time.sleep(0.01)
        self.url = json.loads(ready.read_text())["url"]
        return self

    def stop(self) -> None:
        process, self.process = self.process, None
        self._session.close()
        if process is not None:
            process.terminate()
            assert process.wait(20) == 0

    # -- orders -------------------------------------------------------------------------------------------------

    def fault(self, kind: FaultKind, **how: Any) -> None:
        self._call("POST", "faults", {"kind": kind, **how})

    def faults_clear(self) -> None:
        self._call("DELETE", "faults")

    def forward(self, seconds: float) -> None:
        self._call("POST", "forward", {"seconds": seconds})

    def traffic(self, ref: str, **of: int) -> None:
        self._call("POST", "traffic", {"id": ref, **of})

    # -- its own books ------------------------------------------------------------------------------------------

    def books(self) -> dict[str, Any]:
        return dict(self._call("GET", "books"))

    def contracts(self, *, tenant: str = "", gone: bool = False) -> list[dict[str, Any]]:
        """The oldest first; those that are gone only where they are asked for."""
        found = self.books()["contracts"]
        return [row for row in found if (gone or row["lives"]) and tenant in ("", row["tenant"])]

    def contract(self, ref: str) -> dict[str, Any]:
        (found,) = [row for row in self.contracts(gone=True) if row["ref"] == ref]
        return found

    def box(self, ref: str) -> Path:
        return self.folder / "boxes" / ref

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._session.request(method, f"{self.url}/simulator/{path}", json=body, timeout=10)
        answer.raise_for_status()
        return answer.json()
