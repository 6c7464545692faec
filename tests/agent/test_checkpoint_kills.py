"""An agent that is killed in the middle of a checkpoint or a restore: the folder is whole, the command runs once."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import wire
from tests.agent.checkpoint_server import CheckpointServer
from tests.agent.conftest import AgentProcess, eventually
from tests.agent.control_plane import DROP, ControlPlane
from tests.agent.test_checkpoints import SAVE, run

pytestmark = pytest.mark.slow


@pytest.fixture
def server(plane: ControlPlane, tmp_path: Path) -> CheckpointServer:
    return CheckpointServer(plane, tmp_path / "objects")


def test_killed_while_it_uploads_it_begins_that_checkpoint_anew_and_the_job_still_waits_for_it(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer, tmp_path: Path
) -> None:
    agent.enrolled().start()
    server.snapshots.delay_s = 0.5
    job = run(plane, f"echo 1 > counter; {SAVE}; echo kept; echo 2 > counter")
    plane.wait(lambda: server.snapshots.plans)
    agent.kill()
    assert server.generations == [] and b"kept" not in job.log
    server.snapshots.delay_s = 0.0
    agent.start()
    plane.wait(lambda: job.finish)
    assert job.log == b"kept\n" and job.claims == 1
    assert len(server.generations) == 1
    assert (server.holds(1, tmp_path / "g1") / "counter").read_text() == "1\n"


def test_killed_after_the_commit_and_before_it_knew_of_it_the_job_gets_another_one(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer, tmp_path: Path
) -> None:
    agent.enrolled().start()
    plane.fault(r"/commit$", DROP)
    plane.fault(r"/commit$", (503, {}), times=1_000)
    job = run(plane, f"echo 1 > counter; {SAVE}; echo kept")
    plane.wait(lambda: len(server.generations) == 1)
    agent.kill()
    plane.faults.clear()
    agent.start()
    plane.wait(lambda: job.finish)
    assert job.log == b"kept\n"
    for number in range(1, len(server.generations) + 1):
        assert (server.holds(number, tmp_path / f"g{number}") / "counter").read_text() == "1\n"


def test_killed_in_the_middle_of_a_restore_it_restores_anew_and_starts_the_command_once(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer
) -> None:
    agent.enrolled().start()
    files = (
        "for n in $(seq 50); do head -c 20000 /dev/urandom > f$n; done; head -c 5000000 /dev/urandom > big"
    )
    first = run(plane, f"{files}; cat * | sha256sum; {SAVE}; exit 1")
    plane.wait(lambda: first.finish)
    server.snapshots.delay_s = 0.3
    second = run(plane, "cat * | sha256sum; echo $DORMOUSE_RESTORED_FROM", "d_2", attempt=2)
    transfers = server.snapshots.transfers
    plane.wait(lambda: server.snapshots.transfers > transfers + 1)
    agent.kill()
    assert second.log == b"" and not (agent.run_folder("d_2") / "work").exists()
    server.snapshots.delay_s = 0.0
    agent.start()
    plane.wait(lambda: second.finish)
    assert second.log == bytes(first.log) + b"s_1\n"
    assert second.finish and second.finish["outcome"] == "succeeded"
    assert second.claims == 2, "a restore that was cut short is claimed anew, under the same fence"
    leftovers = [p.name for p in agent.run_folder("d_2").parent.iterdir() if "void" in p.name]
    assert leftovers == []


def test_killed_while_the_job_goes_on_its_next_checkpoint_needs_no_new_claim(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer
) -> None:
    agent.enrolled().start()
    job = run(plane, f"for n in 1 2 3 4; do echo $n > counter; {SAVE}; echo kept $n; done")
    plane.wait(lambda: b"kept 1" in job.log)
    agent.kill()
    agent.start()
    plane.wait(lambda: job.finish)
    assert job.log == b"kept 1\nkept 2\nkept 3\nkept 4\n"
    assert job.claims == 1 and wire.STAND_DOWN not in agent.log()
    eventually(lambda: not (agent.run_folder("d_1") / "checkpoint").exists())


def test_killed_while_it_ends_the_job_it_keeps_the_folder_when_it_is_started_again(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer, tmp_path: Path
) -> None:
    agent.enrolled().start()
    # One before, so that the engine is loaded: the end has seconds, and loading it on a busy machine takes some.
    script = f"{SAVE}; trap 'echo saved > state; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    job = run(plane, script, grace_s=3)
    plane.wait(lambda: b"up" in job.log)
    assert agent.process is not None
    server.snapshots.delay_s = 2.0
    before = len(server.snapshots.plans)
    agent.process.terminate()
    plane.wait(lambda: len(server.snapshots.plans) > before)
    agent.kill()
    server.snapshots.delay_s = 0.0
    agent.start()
    plane.wait(lambda: job.finish, within_s=30)
    assert job.finish and job.finish["outcome"] == "interrupted"
    assert (server.holds(len(server.generations), tmp_path / "g") / "state").read_text() == "saved\n"
