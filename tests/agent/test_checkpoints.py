"""A job's folder is kept while it runs, once more at the end, and is there again before the next attempt begins."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agent import processes, wire
from agent.checkpoints import Checkpoints
from agent.client import Client, Http
from agent.folder_size import size_of
from agent.hold import Hold
from agent.identity import Keyring
from agent.session import Ending
from tests.agent.checkpoint_server import CheckpointServer
from tests.agent.conftest import AgentProcess, eventually
from tests.agent.control_plane import ControlPlane, Dispatch
from tests.agent.job_store import JobStore

KEPT = {"every_s": 3600}
SAVE = (
    'touch "$DORMOUSE_CHECKPOINT_DIR/now"; while [ -e "$DORMOUSE_CHECKPOINT_DIR/now" ]; do sleep 0.01; done'
)


@pytest.fixture
def server(plane: ControlPlane, tmp_path: Path) -> CheckpointServer:
    return CheckpointServer(plane, tmp_path / "objects")


def run(plane: ControlPlane, script: str, dispatch_id: str = "d_1", **work: Any) -> Dispatch:
    return plane.dispatch(
        dispatch_id, **{"script": script, "checkpoint": KEPT, "job_id": "j_1", "attempt": 1, **work}
    )


@pytest.mark.slow
def test_a_job_says_now_and_goes_on_when_it_is_kept(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer, tmp_path: Path
) -> None:
    agent.enrolled().start()
    script = f"""
for n in 1 2 3; do
  echo $n > counter
  {SAVE}
  echo "kept $n $(cat "$DORMOUSE_CHECKPOINT_DIR/last")"
done
echo "from ${{DORMOUSE_RESTORED_FROM-nothing}} attempt $DORMOUSE_ATTEMPT"
"""
    job = run(plane, script)
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "succeeded", agent.log()
    lines = job.log.decode().splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["kept", "1"], ["kept", "2"], ["kept", "3"]]
    assert json.loads(lines[1].partition("kept 2 ")[2])["generation"] == 2
    assert lines[3] == "from nothing attempt 1"
    for number in (1, 2, 3):
        assert (server.holds(number, tmp_path / f"g{number}") / "counter").read_text() == f"{number}\n"
    # What the run needs for itself is no part of the job's folder.
    assert os.listdir(tmp_path / "g3") == ["counter"]


@pytest.mark.slow
def test_it_is_kept_every_so_often_beside_the_command_and_only_what_changed_is_sent(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer
) -> None:
    agent.enrolled().start()
    go = agent.state_dir.with_name("go")
    script = f"head -c 3000000 /dev/urandom > big; sleep 0.1; while [ ! -e {go} ]; do date +%N > tick; sleep 0.01; done"
    job = run(plane, script, checkpoint={"every_s": 0.4})
    plane.wait(lambda: len(server.generations) >= 3, within_s=30)
    go.touch()
    plane.wait(lambda: job.finish)
    first, *later = server.generations
    assert first["stored_bytes"] > 3_000_000
    assert max(commit["stored_bytes"] for commit in later) < 10_000
    assert job.finish and job.finish["outcome"] == "succeeded"


def test_the_next_attempt_finds_every_file_before_its_command_starts(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer, tmp_path: Path
) -> None:
    agent.enrolled().start("--workspace", str(tmp_path / "workspace"))
    first = run(
        plane, f"mkdir deep; echo kept > deep/file; ln -s deep/file link; {SAVE}; echo lost > more; exit 1"
    )
    plane.wait(lambda: first.finish)
    second = run(
        plane, 'find . | sort; cat link; echo "$DORMOUSE_RESTORED_FROM $DORMOUSE_ATTEMPT"', "d_2", attempt=2
    )
    plane.wait(lambda: second.finish)
    assert second.log == b".\n./deep\n./deep/file\n./link\nkept\ns_1 2\n"
    assert second.progress[0]["phase"] == "checkpoint"
    assert second.progress[-1]["phase"] == "restored" and second.progress[-1]["files_done"] == 1
    # A job that keeps its folder has one of its own, also where the others share a workspace.
    assert not (tmp_path / "workspace").exists() or os.listdir(tmp_path / "workspace") == []


@pytest.mark.slow
def test_one_that_is_still_being_checked_is_waited_for(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer
) -> None:
    agent.enrolled().start()
    server.refusals += [(503, {"code": "busy", "message": "it is being checked", "hint": ""})] * 2
    job = run(plane, "echo ran")
    plane.wait(lambda: job.finish)
    assert [verb for verb, _ in server.requests] == ["restore"] * 3
    assert job.log == b"ran\n"


@pytest.mark.slow
def test_a_restore_that_fails_never_starts_the_command_and_says_which_it_was(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer
) -> None:
    agent.enrolled().start()
    first = run(plane, f"echo 1 > counter; head -c 900000 /dev/urandom > data; {SAVE}; exit 1")
    plane.wait(lambda: first.finish)
    for wish in server.generations[0]["new_objects"]:
        if "/p/" in wish["key"]:
            path = server.folder / wish["key"]
            path.chmod(0o600)
            path.write_bytes(b"\0" * path.stat().st_size)
    second = run(plane, "echo never > ../../../never; echo ran", "d_2")
    plane.wait(lambda: second.finish)
    assert second.finish and second.finish["outcome"] == "interrupted"
    assert second.finish["reason"].startswith("checkpoint 1 could not be restored: ")
    assert second.finish["result"] == {"restore_failed": "s_1"}
    assert second.log == b"" and not (agent.state_dir.parent / "never").exists()
    assert not (agent.run_folder("d_2") / "work").exists()


def test_a_job_whose_checkpoints_are_lost_fails_and_does_not_begin_anew(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer
) -> None:
    agent.enrolled().start()
    server.refusals.append(
        (409, {"code": wire.CHECKPOINT_LOST, "message": "checkpoint 4 is damaged", "hint": ""})
    )
    job = run(plane, "echo ran")
    plane.wait(lambda: job.finish)
    assert job.finish and (job.finish["outcome"], job.finish["reason"]) == (
        "failed",
        "checkpoint 4 is damaged",
    )
    assert job.log == b""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["signal", "limit"])
def test_a_worker_that_ends_gives_the_grace_keeps_the_folder_and_reports(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer, tmp_path: Path, how: str
) -> None:
    if how == "limit":
        plane.settings = {"max_session_hours": 8 / 3600}
    agent.enrolled().start()
    script = "trap 'sleep 0.2; echo saved > state; exit 0' TERM\necho up\nwhile :; do sleep 0.05; done"
    job = run(plane, script, grace_s=2)
    plane.wait(lambda: b"up" in job.log)
    if how == "signal":
        assert agent.process is not None
        agent.process.send_signal(signal.SIGTERM)
    plane.wait(lambda: job.finish)
    assert agent.wait() == 0
    assert job.finish and job.finish["outcome"] == "interrupted", agent.log()
    said = "told to end by SIGTERM" if how == "signal" else "the session's limit of 0.00222222 h is near"
    assert job.finish["reason"] == said
    assert (server.holds(1, tmp_path / "g1") / "state").read_text() == "saved\n"
    runtime_h = plane.statuses[-1]["session_runtime_hours"]
    assert plane.statuses[-1]["status"] == wire.ENDED
    assert any(post["status"] == wire.DRAINING for post in plane.statuses)
    if how == "limit":
        assert 0.5 * 8 < runtime_h * 3600 < 8, "all of it in time, and not before the last quarter or so"


@pytest.mark.slow
def test_an_agent_that_is_killed_finds_its_job_again_and_goes_on_keeping(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer, tmp_path: Path
) -> None:
    agent.enrolled().start()
    go = agent.state_dir.with_name("go")
    script = f"echo 1 > counter; echo up; while [ ! -e {go} ]; do sleep 0.02; done; echo 2 > counter; {SAVE}"
    job = run(plane, script)
    plane.wait(lambda: b"up" in job.log)
    agent.kill()
    agent.start()
    go.touch()
    plane.wait(lambda: job.finish)
    assert (server.holds(1, tmp_path / "g1") / "counter").read_text() == "2\n"
    assert job.finish and job.finish["outcome"] == "succeeded"


@pytest.mark.slow
def test_one_that_cannot_be_taken_is_told_and_tried_again(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer
) -> None:
    agent.enrolled().start()
    plane.fault(r"/snapshots/s_1/plan$", (400, {"code": "invalid", "message": "no", "hint": ""}))
    job = run(plane, f"echo 1 > counter; {SAVE}; echo went on")
    plane.wait(lambda: job.finish)
    assert list(server.given_up.values()) == ["no [400 invalid]"]
    assert job.log == b"went on\n" and len(server.generations) == 1


def test_a_stale_attempt_is_stopped_by_the_question_about_its_next_checkpoint(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer
) -> None:
    agent.enrolled().start()
    go = agent.state_dir.with_name("go")
    job = run(plane, f"echo up; while [ ! -e {go} ]; do sleep 0.02; done; {SAVE}; echo never")
    plane.wait(lambda: b"up" in job.log)
    mark = (agent.run_folder("d_1") / "mark").read_text()
    job.superseded = True
    go.touch()
    plane.wait(lambda: job.late)
    eventually(lambda: processes.members(pgid=0, mark=mark, trust_group=False) == [])
    assert server.generations == [] and b"never" not in job.log


@pytest.mark.slow
def test_while_the_control_plane_is_away_the_command_goes_on_and_is_kept_afterwards(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer
) -> None:
    agent.enrolled().start()
    out = agent.state_dir.with_name("out")
    job = run(plane, f"echo up; while [ ! -e {out} ]; do sleep 0.02; done; echo 1 > counter; {SAVE}; echo on")
    plane.wait(lambda: b"up" in job.log)
    plane.close()
    out.touch()
    eventually(lambda: "control plane away" in agent.log())
    plane.open()
    plane.wait(lambda: job.finish)
    assert job.log == b"up\non\n" and len(server.generations) == 1


def test_words_about_checkpoints_that_mean_nothing_here_are_refused(
    plane: ControlPlane, agent: AgentProcess, server: CheckpointServer
) -> None:
    agent.enrolled().start()
    job = run(plane, "echo ran", checkpoint={"every_s": "often"})
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "failed" and "every_s in seconds" in job.finish["reason"]


def unserved(folder: Path, *, ending: Ending | None = None) -> Checkpoints:
    """Of a job whose checkpoints are an hour apart: nobody is asked for one."""
    claim = wire.Claimed(dispatch_id="d_1", kind="job", fence=1, lease_s=60, work={"checkpoint": KEPT})
    client = Client(Http("http://127.0.0.1:1"), Keyring.__new__(Keyring))
    hold = Hold(claim)
    if ending is not None:
        hold.end(ending)
    return Checkpoints(client=client, hold=hold, folder=folder, backoff_cap_s=1.0)


def test_one_that_hangs_leaves_the_last_one_most_of_the_time_that_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    monkeypatch.setattr("agent.checkpoints.size_of", lambda *_, **__: go.wait(10))
    ending = Ending(reason="told to end", exit_code=0, grace_s=4, report_s=4, checkpoint_by_s=2)
    kept = unserved(tmp_path, ending=ending)
    kept.watch()
    began_s = time.monotonic()
    kept.end()
    assert time.monotonic() - began_s < 1.0
    go.set()


def test_before_the_first_one_its_time_is_taken_from_what_lies_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "work" / "deep").mkdir(parents=True)
    with open(tmp_path / "work" / "deep" / "model", "wb") as file:
        file.truncate(20 * 1024**3)
    kept = unserved(tmp_path)
    assert kept.expected_s == 60
    kept.watch()
    eventually(lambda: kept.expected_s > 2_500)
    kept.end()


@pytest.mark.parametrize(
    ("said", "expected_s"),
    [('{"seconds": 200}', 301), ('{"seconds": "long"}', 60), ("{", 60), ('{"seconds": 1e300}', 60)],
)
def test_an_agent_that_is_started_anew_knows_how_long_the_last_one_took(
    tmp_path: Path, said: str, expected_s: float
) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "last").write_text(said)
    assert unserved(tmp_path).expected_s == expected_s


def test_what_was_restored_and_has_not_changed_needs_no_time(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"x" * 1000)
    time.sleep(0.02)
    since_ns = time.time_ns()
    time.sleep(0.02)
    (tmp_path / "new").write_bytes(b"x" * 10)
    (tmp_path / "loop").symlink_to(tmp_path)
    found = size_of(tmp_path, since_ns=since_ns, within_s=5, stopped=lambda: False)
    assert found.files == 2 and found.size_bytes < 500
    assert size_of(tmp_path, since_ns=0, within_s=0, stopped=lambda: False).files == 0


@pytest.mark.slow
def test_a_job_that_is_cut_short_while_its_artifacts_go_up_is_kept_and_goes_on_elsewhere(
    plane: ControlPlane, agent: AgentProcess, tmp_path: Path
) -> None:
    store = JobStore(plane, tmp_path / "store")
    of_store = plane.extra, plane.raw
    server = CheckpointServer(plane, tmp_path / "objects")
    of_server = plane.extra, plane.raw
    assert all(of_store) and all(of_server)
    plane.extra = lambda *asked: of_server[0](*asked) or of_store[0](*asked)  # type: ignore[misc]
    plane.raw = lambda handler: (of_store if "/objects/j/" in handler.path else of_server)[1](handler)  # type: ignore[misc]
    agent.enrolled().start()
    job = run(plane, "echo 1 > counter; echo 2 > a", artifacts=store.keep("d_1", "a"), grace_s=0.2)
    store.delay_s = 20.0
    eventually(lambda: "outcome=succeeded" in agent.log())
    eventually(lambda: plane.count("d_1/objects"))
    assert agent.process is not None
    agent.process.send_signal(signal.SIGTERM)
    assert agent.wait() == 0
    assert job.finish and job.finish["outcome"] == "interrupted", agent.log()
    assert job.finish["result"][wire.WORKER_ENDS] is True
    assert (server.holds(1, tmp_path / "g1") / "counter").read_text() == "1\n"
