"""The agent in a notebook's cell: shown, started again, ended. The cell is a Python process of its own here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import cell
from agent.cell import Stopped
from tests.agent.conftest import REPOSITORY, eventually
from tests.agent.control_plane import ControlPlane

CELL = """
import sys
from pathlib import Path
from agent import cell
cell.STEADY_AFTER_S, cell.FIRST_WAIT_S = 0.0, 0.2
try:
    cell.run(url=sys.argv[1], token=sys.argv[2], provider="colab", name="w", home=Path(sys.argv[3]),
             release=lambda: print("released", flush=True), options=["--probe", "none"])
except cell.Stopped as error:
    print("STOPPED", error._render_traceback_()[0])
"""


class Cell:
    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self._plane = plane
        self.home = folder / "home"
        self._output = folder / "output"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, token: str = "join-1", **env: str) -> Cell:
        words = [sys.executable, "-c", CELL, self._plane.url, token, str(self.home)]
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                words, cwd=REPOSITORY, env={**os.environ, "AGENT_BACKOFF_CAP_S": "0.2", **env},
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        return self

    @property
    def said(self) -> str:
        return self._output.read_text(errors="replace")

    def wait(self) -> str:
        assert self.process is not None
        self.process.wait(20)
        return self.said

    def agents(self) -> list[int]:
        """Processes of the agent that this cell has started."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(self.home) in words and b"\0-m\0agent\0" in words:
                found.append(int(entry.name))
        return found

    def clean_up(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


@pytest.fixture
def notebook(plane: ControlPlane, tmp_path: Path) -> Iterator[Cell]:
    made = Cell(plane, tmp_path)
    yield made
    made.clean_up()


def test_interrupt_ends_the_agent_and_gives_the_machine_back(plane: ControlPlane, notebook: Cell) -> None:
    notebook.start()
    plane.wait(lambda: plane.parked)
    assert notebook.process is not None
    os.killpg(notebook.process.pid, signal.SIGINT)  # as Jupyter does: the kernel and all that it has started
    said = notebook.wait()
    assert said.rstrip().endswith("Interrupted: the agent has ended, its jobs run elsewhere.\nreleased")
    assert "Traceback" not in said
    assert notebook.agents() == []


def test_interrupt_that_reaches_the_notebook_alone_is_passed_on(plane: ControlPlane, notebook: Cell) -> None:
    notebook.start()
    plane.wait(lambda: plane.parked)
    assert notebook.process is not None
    notebook.process.send_signal(signal.SIGINT)
    assert notebook.wait().rstrip().endswith("released")
    assert notebook.agents() == []


def test_agent_that_is_killed_is_started_again_as_the_same_worker(
    plane: ControlPlane, notebook: Cell
) -> None:
    notebook.start()
    plane.wait(lambda: plane.parked)
    [first] = notebook.agents()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: "it starts again in 0.2 s" in notebook.said)
    eventually(lambda: " known url=" in notebook.said)
    assert notebook.said.count(" enrolled url=") == 1


def test_token_that_is_refused_keeps_the_machine_and_the_next_token_works(
    plane: ControlPlane, notebook: Cell
) -> None:
    said = notebook.start("wrong").wait()
    assert "STOPPED Dormouse: the control plane did not take this token" in said
    assert "put the new join token into the first cell" in said
    assert "released" not in said
    notebook.start("join-1")
    plane.wait(lambda: plane.parked)


def test_identity_that_the_server_has_forgotten_is_put_aside(plane: ControlPlane, notebook: Cell) -> None:
    notebook.start()
    plane.wait(lambda: plane.parked)
    [folder] = [path for path in notebook.home.iterdir() if path.is_dir()]
    notebook.clean_up()
    body = json.loads((folder / "identity.json").read_text())
    (folder / "identity.json").write_text(json.dumps({**body, "secret": "9.nobody"}))
    assert "STOPPED Dormouse: the control plane no longer takes worker" in notebook.start().wait()
    assert not (folder / "identity.json").exists()


def test_wrong_option_is_a_sentence_and_not_repeated(plane: ControlPlane, notebook: Cell) -> None:
    said = notebook.start(AGENT_BACKOFF_CAP_S="never").wait()
    assert "STOPPED Dormouse: AGENT_BACKOFF_CAP_S 'never' is not a number of seconds" in said
    assert "Correct it in the first cell" in said


def test_session_begins_with_the_notebook_and_not_with_its_second_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DORMOUSE_SESSION_STARTED", raising=False)
    state = tmp_path / "home" / "token"
    state.mkdir(parents=True)
    first = cell._session_started(state)
    monkeypatch.setattr(cell, "_process_age_s", lambda: 0.0)
    monkeypatch.setattr(time, "time", lambda: 4_000_000_000.0)
    assert cell._session_started(state) == first
    other = tmp_path / "other" / "token"
    other.mkdir(parents=True)
    assert cell._session_started(other) == "2096-10-02T07:06:40+00:00"


def test_age_of_this_process_is_known() -> None:
    assert 0 < cell._process_age_s() < 24 * 3600
    assert Stopped("no")._render_traceback_() == ["Dormouse: no"]
