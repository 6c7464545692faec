"""Whose boxes the demo rents: this machine's own, or those of a vast.ai that is simulated here, HTTP API and all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.launcher.demo.api import Api
from config.launcher.plan import without_ours
from config.launcher.ports import next_free
from config.launcher.processes import Program, Stage
from config.launcher.stack import Stack
from hibernation.providers.local import local_folder

SIMULATOR_PORT = 18_080
READY_LIMIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Market:
    """kind: of the account that rents. environ: what the installation must know of it, before it starts. start: brings up
    what has to run beside it. folder: where its boxes' folders are, which only a demo can look into."""

    kind: str
    environ: Mapping[str, str]
    start: Callable[[Stack], None]
    folder: Callable[[Stack], Path]
    account: Callable[[Api], dict[str, Any]]

    def workspaces(self, stack: Stack) -> list[Path]:
        return sorted(self.folder(stack).glob("boxes/*/workspace"))


def local() -> Market:
    """The host of local boxes is part of every installation, and so is its account here."""

    def account(api: Api) -> dict[str, Any]:
        return next(row for row in api.get("/api/accounts")["results"] if row["kind"] == "local")

    return Market(
        kind="local",
        environ={},
        start=lambda _: None,
        folder=lambda stack: local_folder(stack.plan.env.data_dir),
        account=account,
    )


def vast_simulator() -> Market:
    """The provider `vast` itself, at the simulator's address: keys, rate limits and the box's own start script are real."""
    port = next_free("127.0.0.1", SIMULATOR_PORT)

    def folder(stack: Stack) -> Path:
        return stack.plan.env.data_dir / "vast-simulator"

    def start(stack: Stack) -> None:
        program = Program(
            name="vast-simulator",
            command=[sys.executable, "-m", "tests.simulators.vast", str(folder(stack)), "--port", str(port)],
            env=without_ours(stack.plan.environ) | {"PYTHONUNBUFFERED": "1"},
            stage=Stage.AGENTS,
        )
        child = stack.supervisor.start(program)
        stack.supervisor.wait_until(child, lambda: b'"url"' in child.said(), limit_s=READY_LIMIT_S)

    return Market(
        kind="vast",
        environ={"DORMOUSE_VAST_URL": f"http://127.0.0.1:{port}"},
        start=start,
        folder=folder,
        account=lambda api: api.post(
            "/api/accounts", kind="vast", label="demo vast", credentials={"api_key": "sim-demo-key-of-nobody"}
        ),
    )


MARKETS = {"local": local, "vast-simulator": vast_simulator}
