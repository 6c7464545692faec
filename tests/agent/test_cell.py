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

from agent import cell, wire
from agent.cell import Stopped
from tests.agent.conftest import REPOSITORY, eventually
from tests.agent.control_plane import ControlPlane

CELL = """
import sys
from pathlib import Path
from agent import cell
cell.STEADY_AFTER_S, cell.FIRST_WAIT_S = 0.0, 0.2
cell.ENROL_WITHIN_S = float(sys.argv[4])
try:
    cell.run(url=sys.argv[1], token=sys.argv[2], provider=sys.argv[5], name=sys.argv[6], home=Path(sys.argv[3]),
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

    def start(
        self,
        token: str = "join-1",
        *,
        within_s: float = 900,
        provider: str = "colab",
        name: str = "w",
        **env: str,
    ) -> Cell:
        words = [
            sys.executable,
            "-c",
            CELL,
            self._plane.url,
            token,
            str(self.home),
            str(within_s),
            provider,
            name,
        ]
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


@pytest.mark.slow
def test_interrupt_ends_the_agent_and_gives_the_machine_back(plane: ControlPlane, notebook: Cell) -> None:
    notebook.start()
    plane.wait(lambda: plane.parked)
    assert notebook.process is not None
    os.killpg(notebook.process.pid, signal.SIGINT)  # as Jupyter does: the kernel and all that it has started
    said = notebook.wait()
    assert said.rstrip().endswith("Interrupted: the agent has ended, its jobs run elsewhere.\nreleased")
    assert "Traceback" not in said
    assert notebook.agents() == []


@pytest.mark.slow
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


@pytest.mark.slow
def test_token_that_is_refused_keeps_the_machine_and_the_next_token_works(
    plane: ControlPlane, notebook: Cell
) -> None:
    said = notebook.start("wrong").wait()
    assert "STOPPED Dormouse: the control plane did not take this token" in said
    assert "put the new join token into the first cell" in said
    assert "released" not in said
    notebook.start("join-1")
    plane.wait(lambda: plane.parked)


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer", [(503, {"code": "busy", "message": "later"}), (429, {"code": "too_many"}), None]
)
def test_server_that_lets_nobody_enrol_ends_the_session_with_a_sentence(
    plane: ControlPlane, notebook: Cell, answer: tuple[int, dict[str, str]] | None
) -> None:
    """A lent machine costs by the hour: it is not held for a server that is away, or that says later for ever."""
    if answer is None:
        plane.close()
    else:
        plane.fault(wire.ENROLL, answer, times=1000)
    said = notebook.start(within_s=1.0).wait()
    assert "\nreleased\nSTOPPED Dormouse: " in said
    assert "let nobody enrol for 1 s" in said.replace("0.9 s", "1 s")
    assert "run all cells again once the server answers." in said
    assert notebook.agents() == []


@pytest.mark.slow
def test_machine_of_ones_own_waits_for_its_server_for_ever(plane: ControlPlane, notebook: Cell) -> None:
    plane.close()
    notebook.start(within_s=0.0, provider="local")
    eventually(lambda: notebook.said.count("cannot enrol yet") > 3)
    plane.open()
    plane.wait(lambda: plane.parked)


def test_name_that_looks_like_an_option_is_a_name(plane: ControlPlane, notebook: Cell) -> None:
    notebook.start(name="--join -x")
    plane.wait(lambda: plane.parked)
    assert plane.enrolments[0]["name"] == "--join -x"


# -- when the session began ------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DORMOUSE_SESSION_STARTED", raising=False)
    monkeypatch.setattr(cell, "_boot_id", lambda: "boot-1")
    monkeypatch.setattr(time, "time", lambda: 4_000_000_000.0)
    made = tmp_path / "home" / "token"
    made.mkdir(parents=True)
    return made


def ages(monkeypatch: pytest.MonkeyPatch, *, first: float | None, kernel: float | None) -> None:
    """Seconds of the container's first process, and of the notebook's own."""
    monkeypatch.setattr(cell, "_started_s", lambda process: 7.0)
    monkeypatch.setattr(cell, "_age_s", lambda process: first if process == 1 else kernel)


def test_session_is_as_old_as_its_container_and_not_as_a_kernel_that_was_restarted(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ages(monkeypatch, first=3 * 3600.0, kernel=5.0)
    assert cell._session_started(state) == "2096-10-02T04:06:40+00:00"
    ages(monkeypatch, first=3 * 3600.0 + 60, kernel=1.0)
    monkeypatch.setattr(time, "time", lambda: 4_000_000_062.0)
    assert (
        cell._session_started(state) == "2096-10-02T04:06:40+00:00"
    )  # the same text, whatever the clocks do


@pytest.mark.parametrize("first", [None, 25 * 3600.0])
def test_machine_that_is_older_than_any_session_counts_from_its_first_notebook(
    state: Path, monkeypatch: pytest.MonkeyPatch, first: float | None
) -> None:
    ages(monkeypatch, first=first, kernel=100.0)
    began = cell._session_started(state)
    assert began == "2096-10-02T07:05:00+00:00"
    ages(monkeypatch, first=first, kernel=0.0)
    monkeypatch.setattr(time, "time", lambda: 4_000_003_600.0)
    assert cell._session_started(state) == began


def test_home_that_outlives_its_machine_does_not_make_the_next_session_older(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ages(monkeypatch, first=100.0, kernel=1.0)
    first = cell._session_started(state)
    monkeypatch.setattr(time, "time", lambda: 4_000_100_000.0)
    monkeypatch.setattr(cell, "_boot_id", lambda: "boot-2")
    second = cell._session_started(state)
    assert second != first
    monkeypatch.setattr(time, "time", lambda: 4_000_200_000.0)
    monkeypatch.setattr(cell, "_started_s", lambda process: 8.0)  # another container on the same machine
    assert cell._session_started(state) not in (first, second)


def test_what_an_earlier_version_kept_or_somebody_broke_is_written_anew(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ages(monkeypatch, first=None, kernel=None)
    for text in ("2026-11-21T14:30:00+00:00\n", "[]", ""):
        (state.parent / cell.STARTED).write_text(text)
        assert cell._session_started(state) == "2096-10-02T07:06:40+00:00"


def test_age_of_a_process_is_known() -> None:
    own, first = cell._age_s(os.getpid()), cell._age_s(1)
    assert own is not None and first is not None and 0 < own < first
    assert cell._age_s(2**22 + 1) is None
    assert Stopped("no")._render_traceback_() == ["Dormouse: no"]
