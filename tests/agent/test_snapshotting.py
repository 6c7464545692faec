"""A workspace goes to the store and comes back on another box, every transfer signed, every step told."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import wire
from snapshots.engine.compare import compare
from snapshots.engine.remote import StoreRemote
from snapshots.engine.verify import verify
from tests.agent.conftest import AgentProcess, eventually
from tests.agent.control_plane import DROP, ControlPlane
from tests.agent.snapshot_server import OWNER, OWNER_KEY, SnapshotServer


@pytest.fixture
def server(plane: ControlPlane, tmp_path: Path) -> SnapshotServer:
    return SnapshotServer(plane, tmp_path / "objects")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A hundred small files, a few big ones, a link."""
    folder = tmp_path / "workspace"
    rng = random.Random(7)
    for number in range(100):
        path = folder / f"d{number % 7}" / f"f{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(3000)))
    for number in range(4):
        (folder / f"model-{number}.bin").write_bytes(rng.randbytes(3_000_000))
    (folder / "latest").symlink_to("model-3.bin")
    os.utime(folder / "d1", (1_600_000_000, 1_600_000_000))
    return folder


@pytest.fixture
def other_box(plane: ControlPlane, tmp_path: Path) -> Iterator[AgentProcess]:
    made = AgentProcess(tmp_path / "other-state", plane)
    yield made
    made.clean_up()


def verified(server: SnapshotServer, commit: dict[str, Any]) -> str:
    """What the control plane finds in the store, without the agent's word."""
    found = verify(
        server.store,
        root_key=commit["root_key"],
        owner_key=OWNER_KEY,
        owner_id=OWNER,
        expected_root_sha256=commit["root_sha256"],
    )
    return found.content_id


def test_a_workspace_is_snapshotted_again_from_its_parent_and_restored_elsewhere(
    plane: ControlPlane, agent: AgentProcess, other_box: AgentProcess, server: SnapshotServer, workspace: Path
) -> None:
    agent.enrolled().start("--workspace", str(workspace))
    server.offer("s_1")
    first = plane.dispatch("d_1", kind="snapshot", snapshot_id="s_1")
    plane.wait(lambda: first.finish)
    assert first.finish and first.finish["outcome"] == "succeeded", first.finish
    commit = server.commits[0]
    assert set(commit) == {
        "fence", "root_key", "root_sha256", "root_length", "content_id", "entries", "files", "logical_bytes",
        "stored_bytes", "referenced_bytes", "new_packs", "new_objects", "warnings", "seconds",
    }  # fmt: skip
    assert commit["files"] == 104 and commit["root_key"] == "o/u_1/m/s_1" == commit["new_objects"][-1]["key"]
    assert first.finish["result"]["content_id"] == commit["content_id"]
    assert server.plans[0] == {"fence": 1, "put": [], "get": []}, "the terms are asked for first"
    assert verified(server, commit) == commit["content_id"]
    assert OWNER_KEY.decode() not in agent.log() and "signature=" not in agent.log()

    (workspace / "d1" / "new.txt").write_text("one more")
    server.offer("s_2", parent="s_1")
    second = plane.dispatch("d_2", kind="snapshot", snapshot_id="s_2")
    plane.wait(lambda: second.finish)
    assert server.commits[1]["files"] == 105
    assert server.commits[1]["stored_bytes"] < commit["stored_bytes"] / 20
    agent.end()

    server.offer("s_2", content_id=server.commits[1]["content_id"])
    target = other_box.state_dir.with_name("restored")
    other_box.enrolled_again().start("--workspace", str(target))
    restored = plane.dispatch(
        "d_3", kind="restore", snapshot_id="s_2", content_id=server.commits[1]["content_id"]
    )
    plane.wait(lambda: restored.finish)
    assert restored.finish and restored.finish["outcome"] == "succeeded", restored.finish
    assert restored.finish["result"]["content_id"] == server.commits[1]["content_id"]
    assert restored.finish["result"]["files"] == 105
    assert not compare(workspace, target)
    for box in (agent, other_box):
        assert (box.state_dir / "stat-index").stat().st_size > 104 * 32, (
            "the next take reads only what changed"
        )

    # told again to restore what is there, it is done at once, and what was changed since stays
    (target / "new work").write_text("mine")
    transfers = server.transfers
    again = plane.dispatch(
        "d_4", kind="restore", snapshot_id="s_2", content_id=server.commits[1]["content_id"]
    )
    plane.wait(lambda: again.finish)
    assert again.finish and again.finish["outcome"] == "succeeded"
    assert server.transfers == transfers and (target / "new work").exists()


@pytest.mark.slow
def test_progress_is_told_and_cancel_stops_half_way(
    plane: ControlPlane, agent: AgentProcess, server: SnapshotServer, workspace: Path
) -> None:
    server.delay_s = 0.4
    agent.enrolled().start("--workspace", str(workspace))
    server.offer("s_1")
    job = plane.dispatch("d_1", kind="snapshot", snapshot_id="s_1")
    plane.wait(lambda: job.progress)
    assert set(job.progress[0]) == {
        "fence", "phase", "bytes_done", "bytes_total", "files_done", "files_total", "stored_bytes"
    }  # fmt: skip
    with plane.changed:
        job.cancel = True
        server.delay_s = 1.6
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "cancelled" and not server.commits


def test_a_snapshot_that_is_refused_says_why_and_what_is_not_there_is_no_snapshot(
    plane: ControlPlane, agent: AgentProcess, server: SnapshotServer, workspace: Path
) -> None:
    agent.enrolled().start("--workspace", str(workspace))
    unknown = plane.dispatch("d_1", kind="snapshot", snapshot_id="s_unknown")
    plane.wait(lambda: unknown.finish)
    assert (
        unknown.finish
        and unknown.finish["outcome"] == "failed"
        and "no such snapshot" in unknown.finish["reason"]
    )
    nothing = plane.dispatch("d_2", kind="snapshot")
    plane.wait(lambda: nothing.finish)
    assert nothing.finish and "needs its snapshot_id" in nothing.finish["reason"]
    # another attempt has taken over: nothing is reported
    server.offer("s_1", fence=9)
    old = plane.dispatch("d_3", kind="snapshot", snapshot_id="s_1")
    plane.wait(lambda: plane.count("s_1/plan"))
    other = plane.dispatch("d_4", command=["true"])
    plane.wait(lambda: other.finish)
    assert not old.finishes and not server.commits


@pytest.mark.slow
def test_a_restore_never_mixes_with_what_is_there(
    plane: ControlPlane, agent: AgentProcess, server: SnapshotServer, workspace: Path
) -> None:
    agent.enrolled().start("--workspace", str(workspace))
    server.offer("s_1")
    taken = plane.dispatch("d_1", kind="snapshot", snapshot_id="s_1")
    plane.wait(lambda: taken.finish)
    content_id = server.commits[0]["content_id"]
    server.offer("s_1", content_id=content_id)
    (workspace / "mine.txt").write_text("do not touch")
    for number in (2, 3):
        refused = plane.dispatch(f"d_{number}", kind="restore", snapshot_id="s_1", content_id=content_id)
        plane.wait(lambda refused=refused: refused.finish)
        assert (
            refused.finish
            and refused.finish["outcome"] == "failed"
            and "is not empty" in refused.finish["reason"]
        )
        assert (workspace / "mine.txt").read_text() == "do not touch"


@pytest.mark.slow
def test_transfers_wait_for_a_control_plane_that_is_away(
    plane: ControlPlane, agent: AgentProcess, server: SnapshotServer, workspace: Path
) -> None:
    agent.enrolled().start("--workspace", str(workspace))
    server.offer("s_1")
    plane.fault("/plan$", (503, {}), times=3)
    plane.fault("/plan$", DROP, times=2)
    plane.fault("/commit$", DROP, times=2)
    job = plane.dispatch("d_1", kind="snapshot", snapshot_id="s_1")
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "succeeded", job.finish
    assert len(server.commits) == 3 and server.commits[0] == server.commits[-1]


@pytest.mark.slow
def test_killed_half_way_a_snapshot_is_begun_anew_and_a_committed_one_is_not(
    plane: ControlPlane, agent: AgentProcess, server: SnapshotServer, workspace: Path
) -> None:
    server.delay_s = 0.3
    agent.enrolled().start("--workspace", str(workspace))
    server.offer("s_1")
    job = plane.dispatch("d_1", kind="snapshot", snapshot_id="s_1")
    plane.wait(lambda: server.transfers)
    agent.kill()
    server.delay_s = 0
    agent.start("--workspace", str(workspace))
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "succeeded" and job.claims == 2
    assert verified(server, server.commits[0]) == server.commits[0]["content_id"]
    # killed after its commit, before it could note it: the control plane knows
    server.offer("s_2")
    plane.fault("/commit$", DROP, times=1000)
    job = plane.dispatch("d_2", kind="snapshot", snapshot_id="s_2")
    plane.wait(lambda: "s_2" in server.committed)
    agent.kill()
    plane.faults.clear()
    agent.start("--workspace", str(workspace))
    plane.wait(lambda: job.finish)
    assert (
        job.finish
        and job.finish["outcome"] == "succeeded"
        and job.finish["result"] == {"already_committed": True}
    )


@pytest.mark.slow
def test_killed_between_its_root_and_the_commit_a_snapshot_is_interrupted_not_read_again(
    plane: ControlPlane, agent: AgentProcess, server: SnapshotServer, workspace: Path
) -> None:
    agent.enrolled().start("--workspace", str(workspace))
    server.offer("s_1")
    plane.fault("/commit$", (503, {}), times=1000)
    job = plane.dispatch("d_1", kind="snapshot", snapshot_id="s_1")
    plane.wait(lambda: "s_1" in server.rooted and plane.count("/commit$"))
    agent.kill()
    plane.faults.clear()
    uploads = server.transfers
    agent.start("--workspace", str(workspace))
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "interrupted", job.finish
    assert server.transfers == uploads and not server.commits


@pytest.mark.slow
def test_killed_during_a_restore_it_is_done_again_and_the_agents_end_interrupts_one(
    plane: ControlPlane, agent: AgentProcess, server: SnapshotServer, workspace: Path, tmp_path: Path
) -> None:
    from snapshots.engine.take import take

    taken = take(
        workspace, remote=StoreRemote(server.store), owner_key=OWNER_KEY, owner_id="u_1", snapshot_id="s_1"
    )
    server.offer("s_1", content_id=taken.content_id)
    server.delay_s = 0.4
    target = tmp_path / "target"
    agent.enrolled().start("--workspace", str(target))
    job = plane.dispatch("d_1", kind="restore", snapshot_id="s_1", content_id=taken.content_id)
    plane.wait(lambda: server.transfers >= 2)
    agent.kill()
    assert not target.exists()
    agent.start("--workspace", str(target))
    plane.wait(lambda: job.claims == 2 and server.transfers >= 4)
    assert agent.end() == 0
    assert job.finish and job.finish["outcome"] == "interrupted" and not target.exists()
    # killed between the last byte and the note of it: nobody knows that it is complete, so it is done again, beside
    server.delay_s = 0
    again = plane.dispatch("d_2", kind="restore", ring=False, snapshot_id="s_1", content_id=taken.content_id)
    target.mkdir()
    (target / "whose").write_text("?")
    note = f'{{"content_id": "{taken.content_id}", "workspace": "{target}"}}'
    (agent.state_dir / "restored.json").write_text(note)
    agent.start("--workspace", str(target))
    plane.ring("d_2")
    plane.wait(lambda: again.finish)
    assert again.finish and again.finish["outcome"] == "succeeded", again.finish
    assert not compare(workspace, target)
    assert [path.read_text() for path in tmp_path.glob("target.unfinished-*/whose")] == ["?"]


def test_without_a_workspace_both_say_so(plane: ControlPlane, agent: AgentProcess) -> None:
    agent.enrolled().start()
    for number, kind in enumerate(("snapshot", "restore")):
        job = plane.dispatch(f"d_{number}", kind=kind, snapshot_id="s_1")
        plane.wait(lambda job=job: job.finish)
        assert job.finish and job.finish["outcome"] == "failed" and "--workspace" in job.finish["reason"]


@pytest.mark.slow
def test_signed_urls_may_be_paths_of_the_control_plane(
    plane: ControlPlane, agent: AgentProcess, tmp_path: Path, workspace: Path
) -> None:
    server = SnapshotServer(plane, tmp_path / "objects", relative=True)
    agent.enrolled().start("--workspace", str(workspace))
    server.offer("s_1")
    job = plane.dispatch("d_1", kind="snapshot", snapshot_id="s_1")
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "succeeded"
    assert eventually(lambda: server.commits) and wire.REQUESTS_PER_PLAN == 64
