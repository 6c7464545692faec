"""Real agent processes against the scripted control plane."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import processes
from agent.client import Http
from agent.identity import enrol
from tests.agent.control_plane import ControlPlane, opened

REPOSITORY = Path(__file__).resolve().parents[2]


class AgentProcess:
    """One `python -m agent run` and what it leaves on disk."""

    def __init__(self, state_dir: Path, plane: ControlPlane | None) -> None:
        self.state_dir = state_dir
        self.plane = plane
        self.output = state_dir.with_name(f"{state_dir.name}.stderr")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def server(self) -> ControlPlane:
        assert self.plane is not None
        return self.plane

    def start(
        self,
        *options: str,
        env: dict[str, str] | None = None,
        join: bool = True,
        probe: str = "none",
        no_room: bool = False,
    ) -> AgentProcess:
        """no_room: as on a full disk, no file may grow."""
        words = [
            sys.executable,
            "-m",
            "agent",
            "run",
            "--state-dir",
            str(self.state_dir),
            "--probe",
            probe,
            *options,
        ]
        if join and self.plane is not None:
            words += ["--join", self.plane.url, "join-1"]
        if no_room:
            words = ["/bin/sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *words]
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(
                words,
                cwd=REPOSITORY,
                env={**os.environ, "AGENT_BACKOFF_CAP_S": "0.1", **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def enrolled(self) -> AgentProcess:
        """As if an agent had been here before: identity on disk, nothing running."""
        assert self.plane is not None
        self.state_dir.mkdir(mode=0o700, exist_ok=True)
        http = Http(self.plane.url)
        enrol(
            http=http,
            token="join-1",
            name="",
            provider="",
            state_dir=self.state_dir,
            gpus=(),
            session_runtime_hours=0,
        )
        http.close()
        return self

    def enrolled_again(self) -> AgentProcess:
        """As `enrolled`, where the token of the first box has been used."""
        assert self.plane is not None
        self.plane.join_tokens["join-1"] = ""
        return self.enrolled()

    def log(self) -> str:
        return self.output.read_text(errors="replace")

    def kill(self) -> None:
        """As the kernel would: nothing of the agent's own runs any more."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def end(self, *, within_s: float = 12.0) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def wait(self, *, within_s: float = 15.0) -> int:
        assert self.process is not None
        return self.process.wait(within_s)

    def health_port(self) -> int:
        return int((self.state_dir / "health.port").read_text())

    def identity(self) -> dict[str, Any]:
        return dict(json.loads((self.state_dir / "identity.json").read_text()))

    def run_folder(self, dispatch_id: str) -> Path:
        return self.state_dir / "jobs" / dispatch_id

    def members(self, dispatch_id: str) -> list[int]:
        """Living processes of a run, also of one whose folder the agent has tidied away since `mark` was asked."""
        return processes.members(
            pgid=0, mark=(self.run_folder(dispatch_id) / "mark").read_text(), trust_group=False
        )

    def clean_up(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        for mark in self.state_dir.glob("jobs/*/mark"):
            processes.end(pgid=0, mark=mark.read_text(), trust_group=False, grace_left_s=lambda: 0.0)


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    yield from opened()


@pytest.fixture
def agent(plane: ControlPlane, tmp_path: Path) -> Iterator[AgentProcess]:
    """Not started yet."""
    made = AgentProcess(tmp_path / "state", plane)
    yield made
    made.clean_up()


@pytest.fixture(scope="module")
def _standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    for plane in opened():
        made = AgentProcess(tmp_path_factory.mktemp("standing") / "state", plane)
        hostile = {"CELERY_BROKER_URL": "redis://elsewhere.example/0", "DJANGO_SETTINGS_MODULE": "no.such"}
        ours = {"DORMOUSE_JOIN_TOKEN": "never-for-children", "SEEN": "by children"}
        made.enrolled().start(env={**hostile, **ours})
        plane.wait(lambda plane=plane: plane.parked)
        yield made
        made.clean_up()


@pytest.fixture
def standing(_standing: AgentProcess) -> AgentProcess:
    """An agent that runs already and stays, for tests that only give it work: starting one costs most of a second."""
    plane = _standing.plane
    assert plane is not None and _standing.process is not None and _standing.process.poll() is None
    plane.orders, plane.faults, plane.next_in_s = [], [], 30.0
    return _standing


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failing test shows what the agent said."""
    report = yield
    arguments = getattr(item, "funcargs", {})
    for name in ("agent", "standing"):
        if report.when == "call" and report.failed and name in arguments:
            with contextlib.suppress(OSError):
                report.sections.append(("the agent's log", arguments[name].log()[-6000:]))
    return report


def eventually(condition: Callable[[], Any], *, within_s: float = 10.0) -> Any:
    """For what only the file system or the process table shows."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.01)
    return value
