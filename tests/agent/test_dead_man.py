"""A box that is alone, idle and saved ends itself, and no other box ever does. Against vast.ai's simulator."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from agent.dead_man import AGAIN_S, UNSAVED_AGAIN_S, DeadMan
from agent.own_box import VAST_URL, OwnBox, own_box
from agent.readings import ssh_sessions
from agent.saved import Saved, fingerprint
from agent.settings import child_environment
from tests.agent.conftest import eventually
from tests.agent.control_plane import STAND_DOWN, ControlPlane
from tests.agent.snapshot_server import SnapshotServer
from tests.simulators.vast.faults import FaultKind as K
from tests.simulators.vast.running import Simulator

MINUTES = 30
OWNER_KEY = {"Authorization": "Bearer sim-owner"}


def rent(simulator: Simulator, **env: str) -> dict[str, Any]:
    """As the provider does it; the simulator's own record of the box."""
    body = {"verified": {"eq": True}, "order": [["dph_total", "desc"]], "allocated_storage": 8}
    found = requests.post(f"{simulator.url}/api/v0/bundles/", json=body, headers=OWNER_KEY, timeout=10).json()
    asked = {"image": "i", "disk": 8, "label": "dm", "env": {**env, "DORMOUSE_VAST_URL": simulator.url}}
    url = f"{simulator.url}/api/v0/asks/{found['offers'][0]['id']}/"
    answer = requests.put(url, json=asked, headers=OWNER_KEY, timeout=10).json()
    return simulator.contract(str(answer["new_contract"]))


# -- the rule ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    made = Simulator(tmp_path_factory.mktemp("vast") / "simulator").start()
    yield made
    made.stop()


class Rig:
    """A dead man with a clock of its own, in a box of the simulator, with everything as it must be for the end."""

    def __init__(self, simulator: Simulator, folder: Path) -> None:
        self.simulator = simulator
        self.box = rent(simulator)
        self.now_s = 1_000_000.0
        self.minutes: float | None = MINUTES
        self.held: tuple[str, ...] = ()
        self.workspace = folder / "workspace"
        (self.workspace / "deep").mkdir(parents=True)
        (self.workspace / "deep" / "file").write_text("work")
        (folder / "state").mkdir()
        self.saved = Saved(folder / "state", self.workspace)
        self.saved.uploaded("sn_1", self.saved.look())
        self.man = self.dead_man(self.saved)
        self.man.heard({"sn_1"})

    def dead_man(self, saved: Saved, **changes: Any) -> DeadMan:
        own = OwnBox(url=self.simulator.url, ref=self.box["ref"], key=self.box["container_key"])
        given = {
            "own": own, "saved": saved, "minutes": lambda: self.minutes, "at_rest": lambda: not self.held,
            "clock_s": lambda: self.now_s, **changes,
        }  # fmt: skip
        return DeadMan(**given)

    def alone(self, minutes: float, *, idle: bool = True) -> None:
        """The status loop's turns of so many minutes, while nobody answers."""
        until_s = self.now_s + 60 * minutes
        while self.now_s <= until_s:
            self.man.reading(idle=idle)
            self.man.unheard()
            if self.man.look() and not self.lives:
                return
            self.now_s += 30

    @property
    def lives(self) -> bool:
        return bool(self.simulator.contract(self.box["ref"])["lives"])


@pytest.fixture
def rig(simulator: Simulator, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(simulator, tmp_path)
    yield made
    simulator.faults_clear()
    requests.delete(
        f"{simulator.url}/api/v0/instances/{made.box['ref']}/", json={}, headers=OWNER_KEY, timeout=10
    )


def test_alone_idle_and_saved_for_the_whole_time_it_destroys_itself(rig: Rig) -> None:
    rig.alone(MINUTES - 1)
    assert rig.lives
    rig.alone(2)
    assert not rig.lives


def test_a_destroy_that_did_nothing_is_asked_for_again(rig: Rig) -> None:
    rig.simulator.fault(K.DESTROY_IGNORED)
    rig.simulator.fault(K.RATE_LIMITED, endpoint="destroy")
    rig.alone(MINUTES + 1)
    assert rig.lives
    rig.alone(3 * AGAIN_S / 60)
    assert not rig.lives


def test_one_answer_or_one_busy_reading_starts_the_time_anew(rig: Rig) -> None:
    rig.alone(MINUTES - 1)
    rig.man.heard({"sn_1"})
    rig.alone(MINUTES - 1)
    rig.man.reading(idle=False)
    rig.alone(MINUTES - 1)
    assert rig.lives
    rig.alone(2)
    assert not rig.lives


def stays(rig: Rig) -> None:
    rig.alone(10 * MINUTES)
    assert rig.lives


def test_a_busy_or_unreadable_machine_stays(rig: Rig) -> None:
    rig.alone(10 * MINUTES, idle=False)
    assert rig.lives


def test_work_that_is_held_keeps_it(rig: Rig) -> None:
    rig.held = ("d_1",)
    stays(rig)


@pytest.mark.parametrize("minutes", [None, 0])
def test_switched_off_it_never_ends_itself(rig: Rig, minutes: float | None) -> None:
    rig.minutes = minutes
    stays(rig)


def test_a_snapshot_that_was_not_called_verified_is_none(rig: Rig) -> None:
    rig.saved.uploaded("sn_2", rig.saved.look())
    stays(rig)


def test_a_generation_that_the_control_plane_no_longer_vouches_for_is_none(rig: Rig) -> None:
    rig.man.heard(set())
    stays(rig)


@pytest.mark.parametrize("change", ["write", "touch back", "add", "remove", "rename", "mode"])
def test_any_change_since_the_snapshot_keeps_it(rig: Rig, change: str) -> None:
    file = rig.workspace / "deep" / "file"
    facts = file.stat()
    match change:
        case "write":
            file.write_text("WORK")
        case "touch back":  # the same size, and the time of before: only its ctime tells
            file.write_text("WORK")
            os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        case "add":
            (rig.workspace / "new").touch()
        case "remove":
            file.unlink()
        case "rename":
            file.rename(rig.workspace / "deep" / "other")
        case "mode":
            file.chmod(0o600 if facts.st_mode & 0o077 else 0o640)
    stays(rig)


def test_what_was_saved_again_counts_again(rig: Rig) -> None:
    (rig.workspace / "new").touch()
    rig.alone(2 * MINUTES)
    before = rig.saved.look()
    rig.saved.uploaded("sn_2", before)
    rig.man.heard({"sn_2"})
    rig.now_s += UNSAVED_AGAIN_S
    rig.alone(MINUTES + 1)
    assert not rig.lives


def test_a_restarted_agent_still_knows_what_is_saved_and_counts_from_anew(rig: Rig, tmp_path: Path) -> None:
    rig.alone(MINUTES - 1)
    rig.man = rig.dead_man(Saved(tmp_path / "state", rig.workspace))
    rig.alone(MINUTES - 1)
    assert rig.lives
    rig.alone(2)
    assert not rig.lives


def test_without_a_key_of_its_own_a_machine_never_ends_itself(rig: Rig) -> None:
    rig.man = rig.dead_man(rig.saved, own=None)
    stays(rig)


def test_only_a_vast_container_with_a_key_is_an_own_box() -> None:
    there = {"CONTAINER_ID": "7", "CONTAINER_API_KEY": "secret"}
    found = own_box(there, provider="vast")
    assert found == OwnBox(url=VAST_URL, ref="7", key="secret") and "secret" not in repr(found)
    assert (
        own_box(there, provider="local") is None
        and own_box({**there, "CONTAINER_ID": "../7"}, provider="vast") is None
    )
    assert own_box({"CONTAINER_ID": "7"}, provider="vast") is None and own_box({}, provider="vast") is None
    assert child_environment({**there, "HOME": "/"}) == {"CONTAINER_ID": "7", "HOME": "/"}, (
        "no child sees the key"
    )


def test_reading_a_file_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("work")
    before = fingerprint(tmp_path)
    assert (tmp_path / "file").read_text() == "work" and fingerprint(tmp_path) == before


# -- real processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def boxes(tmp_path: Path) -> Iterator[Simulator]:
    made = Simulator(tmp_path / "simulator", boxes="agent").start()
    yield made
    made.stop()


def in_a_box(boxes: Simulator, plane: ControlPlane, tmp_path: Path) -> tuple[dict[str, Any], SnapshotServer]:
    """An agent in a box, its workspace snapshotted and called verified; how the control plane has it is up to the test."""
    if ssh_sessions() != 0:
        pytest.skip("somebody is logged in over SSH here, which keeps every box of this machine")
    plane.settings = {"check_interval_s": 0.2, "dead_man_minutes": 0.03}
    plane.next_in_s = 0.2
    server = SnapshotServer(plane, tmp_path / "objects")
    box = rent(boxes, DORMOUSE_URL=plane.url, DORMOUSE_JOIN_TOKEN="join-1", AGENT_BACKOFF_CAP_S="0.2")
    (boxes.box(box["ref"]) / "workspace" / "file").write_text("work")
    plane.wait(lambda: plane.parked, within_s=60)
    server.offer("sn_1")
    taken = plane.dispatch("d_1", kind="snapshot", snapshot_id="sn_1")
    plane.wait(lambda: taken.finish, within_s=60)
    assert taken.finish and taken.finish["outcome"] == "succeeded", taken.finish
    plane.orders = [{"kind": "saved", "id": "sn_1"}]
    seen = len(plane.statuses)
    plane.wait(lambda: len(plane.statuses) > seen + 1, within_s=30)
    return box, server


def gone(boxes: Simulator, box: dict[str, Any], *, within_s: float = 60) -> dict[str, Any]:
    eventually(lambda: not boxes.contract(box["ref"])["lives"], within_s=within_s)
    deletes = [call for call in boxes.books()["calls"] if call["endpoint"] == "destroy"]
    assert [call["status"] for call in deletes] == [200], "asked for once, with the container's own key"
    return boxes.contract(box["ref"])


@pytest.mark.slow
def test_a_real_agent_whose_control_plane_dies_ends_its_box(
    boxes: Simulator, plane: ControlPlane, tmp_path: Path
) -> None:
    box, _ = in_a_box(boxes, plane, tmp_path)
    assert boxes.contract(box["ref"])["lives"]
    plane.close()
    gone(boxes, box)
    eventually(lambda: not boxes.box(box["ref"]).exists(), within_s=30)


@pytest.mark.slow
def test_a_real_agent_that_was_stood_down_ends_its_box_if_nobody_else_does(
    boxes: Simulator, plane: ControlPlane, tmp_path: Path
) -> None:
    """The control plane dies between letting the box go and destroying it."""
    box, _ = in_a_box(boxes, plane, tmp_path)
    plane.fault("/api/agent/status", STAND_DOWN, times=100)
    gone(boxes, box)


@pytest.mark.slow
def test_a_real_agent_whose_workspace_has_changed_stays(
    boxes: Simulator, plane: ControlPlane, tmp_path: Path
) -> None:
    box, _ = in_a_box(boxes, plane, tmp_path)
    (boxes.box(box["ref"]) / "workspace" / "file").write_text("more work")
    plane.close()
    log = boxes.box(box["ref"]) / "agent.log"
    eventually(lambda: "its workspace is not what was saved" in log.read_text(), within_s=60)
    assert boxes.contract(box["ref"])["lives"]
