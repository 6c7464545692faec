"""The GPUs of this machine that `./run` brings along: the host of local boxes, and workers with simulated GPUs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from config.launcher.plan import Plan, without_ours
from config.launcher.processes import Program, Stage
from hibernation.providers.local import local_folder

LOCAL_HOST = "hibernation.providers.local_host"
IDENTITY = "identity.json"
"""What an agent writes into its folder once it has joined."""

LISTENS = b" listens queue="
"""An agent logs this when it hears doorbells."""


def local_host(plan: Plan) -> Program:
    """The process that keeps the local provider's boxes."""
    command = [sys.executable, "-m", LOCAL_HOST, str(local_folder(plan.env.data_dir))]
    return Program(name="local-host", command=command, env=_env(plan), stage=Stage.AGENTS)


def folders(plan: Plan) -> dict[str, Path]:
    """Name → folder of each of the DORMOUSE_LOCAL_AGENTS workers."""
    names = [f"sim-gpu-{number}" for number in range(1, plan.env.local_agents + 1)]
    return {name: plan.env.data_dir / "agents" / name for name in names}


def worker_id(folder: Path) -> str:
    """What the control plane calls the agent of that folder, which has joined."""
    return str(json.loads((folder / IDENTITY).read_text())["worker_id"])


def newcomers(plan: Plan) -> list[str]:
    """Those that have not joined yet and need a one-use token. An identity is kept in the worker's own folder."""
    return [name for name, folder in folders(plan).items() if not (folder / IDENTITY).exists()]


def local_agents(plan: Plan, tokens: Sequence[str]) -> list[Program]:
    """The workers that `./run` brings along. tokens: one for each newcomer."""
    token_of = dict(zip(newcomers(plan), tokens, strict=True))
    return [
        agent_program(plan, name=name, folder=folder, token=token_of.get(name, ""))
        for name, folder in folders(plan).items()
    ]


def agent_program(
    plan: Plan, *, name: str, folder: Path, token: str, provider: str = "local", extra: Sequence[str] = ()
) -> Program:
    """An agent with simulated GPUs. folder: its identity and journal; token: empty where it has joined before."""
    # The token goes by the environment: a process list is public.
    env = _env(plan) | {"DORMOUSE_URL": plan.local_url, "DORMOUSE_JOIN_TOKEN": token}
    command = [sys.executable, "-m", "agent", "run", "--name", name, "--provider", provider,
               "--probe", "simulated", "--state-dir", str(folder), *extra]  # fmt: skip
    return Program(name=name, command=command, env=env, stage=Stage.AGENTS, server=False)


def _env(plan: Plan) -> dict[str, str]:
    return without_ours(plan.environ) | {"PYTHONUNBUFFERED": "1"}
