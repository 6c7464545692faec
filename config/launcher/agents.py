"""The GPUs of this machine that `./run` brings along: the host of local boxes, and workers with simulated GPUs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from config.launcher.plan import Plan, without_ours
from config.launcher.processes import Program, Stage, Supervisor
from hibernation.providers.local import local_folder

LOCAL_HOST = "hibernation.providers.local_host"
IDENTITY = "identity.json"
"""What an agent writes into its folder once it has joined."""

TOKEN_LIMIT_S = 60.0
LISTENS = b" listens queue="
"""An agent logs this when it hears doorbells."""


def local_host(plan: Plan) -> Program:
    """The process that keeps the local provider's boxes."""
    command = [sys.executable, "-m", LOCAL_HOST, str(local_folder(plan.env.data_dir))]
    return Program(name="local-host", command=command, env=_env(plan), stage=Stage.AGENTS)


def local_agents(plan: Plan, supervisor: Supervisor) -> list[Program]:
    """DORMOUSE_LOCAL_AGENTS workers. Each enrols once, with a one-use token, and keeps its identity in its own folder."""
    names = [f"sim-gpu-{number}" for number in range(1, plan.env.local_agents + 1)]
    folders = {name: plan.env.data_dir / "agents" / name for name in names}
    new = [name for name, folder in folders.items() if not (folder / IDENTITY).exists()]
    tokens = dict(zip(new, _enrollment_tokens(plan, supervisor, names=new), strict=True))
    return [
        agent_program(plan, name=name, folder=folder, token=tokens.get(name, ""))
        for name, folder in folders.items()
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


def _enrollment_tokens(plan: Plan, supervisor: Supervisor, *, names: list[str]) -> list[str]:
    """One token for each name, in that order. The one place that knows how tokens are made."""
    if not names:
        return []
    program = plan.command("enrollment-tokens", "enrollment_token", "--count", str(len(names)), "--json")
    return list(json.loads(supervisor.run(program, limit_s=TOKEN_LIMIT_S)))


def _env(plan: Plan) -> dict[str, str]:
    return without_ours(plan.environ) | {"PYTHONUNBUFFERED": "1"}
