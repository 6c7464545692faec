"""Killed at any point, an agent that comes back repeats nothing and forgets nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from agent import runner
from agent.journal import Journal
from agent.runner import Command
from agent.session import boot_clock_s, boot_id
from agent.wire import Claimed, FinishPost
from tests.agent.conftest import AgentProcess, eventually
from tests.agent.control_plane import DROP, ControlPlane


def journalled(
    agent: AgentProcess, dispatch_id: str, *, fence: int = 1, kind: str = "job", **work: object
) -> Journal:
    """A claim in the journal, as an agent leaves it that dies right after it wrote it."""
    journal = Journal(agent.state_dir / "journal", epoch=1)
    claim = Claimed(dispatch_id=dispatch_id, kind=kind, fence=fence, lease_s=60, work=work)
    journal.claimed(claim, claimed_s=boot_clock_s(), boot_id=boot_id())
    return journal


def test_killed_while_the_child_runs_it_takes_it_up_again(
    plane: ControlPlane, agent: AgentProcess, tmp_path: Path
) -> None:
    go, count = tmp_path / "go", tmp_path / "count"
    agent.enrolled().start()
    script = f"echo ran >> {count}\necho before\nuntil [ -e {go} ]; do sleep 0.02; done\necho after\nexit 7\n"
    job = plane.dispatch("d_1", script=script)
    plane.wait(lambda: b"before" in job.log)
    agent.kill()
    agent.start()
    plane.wait(lambda: plane.statuses and plane.statuses[-1].get("jobs") == ["d_1"])
    go.touch()
    plane.wait(lambda: job.finish)
    assert job.finish and (job.finish["outcome"], job.finish["exit_code"]) == ("failed", 7)
    assert job.log == b"before\nafter\n" and count.read_text() == "ran\n"
    assert job.claims == 1 and len(job.finishes) == 1


@pytest.mark.slow
def test_child_that_ends_while_no_agent_is_there_is_reported_and_one_that_vanishes_is_interrupted(
    plane: ControlPlane, agent: AgentProcess, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    agent.enrolled().start()
    ends = plane.dispatch("d_ends", script=f"echo up\nuntil [ -e {go} ]; do sleep 0.02; done\necho done\n")
    vanishes = plane.dispatch("d_vanishes", command=["/bin/sh", "-c", "echo up; sleep 600"])
    plane.wait(lambda: ends.log and vanishes.log)
    agent.kill()
    go.touch()
    eventually(lambda: (agent.run_folder("d_ends") / "exit").exists())
    for pid in agent.members("d_vanishes"):
        os.kill(pid, signal.SIGKILL)
    agent.start()
    plane.wait(lambda: ends.finish and vanishes.finish)
    assert ends.finish and ends.finish["outcome"] == "succeeded" and ends.log == b"up\ndone\n"
    assert vanishes.finish and vanishes.finish["outcome"] == "interrupted"
    assert "vanished without an exit code" in vanishes.finish["reason"]


@pytest.mark.slow
def test_killed_while_it_ends_a_job_it_reports_the_end_and_not_the_exit_code_of_its_own_signal(
    plane: ControlPlane, agent: AgentProcess, tmp_path: Path
) -> None:
    told, go = tmp_path / "told", tmp_path / "go"
    agent.enrolled().start()
    script = f"trap 'touch {told}; until [ -e {go} ]; do sleep 0.02; done; exit 143' TERM\necho up\nsleep 600 & wait\n"
    job = plane.dispatch("d_1", script=script, grace_s=60)
    plane.wait(lambda: b"up" in job.log and agent.process)
    assert agent.process is not None
    agent.process.send_signal(signal.SIGTERM)
    eventually(told.exists)
    agent.kill()
    go.touch()
    eventually(lambda: (agent.run_folder("d_1") / "exit").exists())
    agent.start()
    plane.wait(lambda: job.finish)
    assert job.finish and (job.finish["outcome"], job.finish["exit_code"]) == ("interrupted", 143)
    assert job.finish["reason"] == "told to end by SIGTERM"


@pytest.mark.slow
def test_killed_between_finish_and_report_it_reports_once_what_it_had_seen(
    plane: ControlPlane, agent: AgentProcess, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    agent.enrolled().start()
    plane.fault("/finish$", (503, {"code": "away"}), times=10_000)
    job = plane.dispatch("d_1", command=["/bin/sh", "-c", f"echo ran >> {count}; echo out; exit 5"])
    plane.wait(lambda: plane.count("d_1/finish") >= 2)
    agent.kill()
    plane.faults.clear()
    agent.start()
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["exit_code"] == 5 and job.log == b"out\n"
    assert count.read_text() == "ran\n" and len(job.finishes) == 1


@pytest.mark.slow
def test_killed_after_the_report_was_taken_but_not_answered_it_says_the_same_again(
    plane: ControlPlane, agent: AgentProcess, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    agent.enrolled().start()
    plane.fault("/finish$", DROP, times=10_000)
    job = plane.dispatch("d_1", command=["/bin/sh", "-c", f"echo ran >> {count}"])
    plane.wait(lambda: job.finishes)
    agent.kill()
    plane.faults.clear()
    agent.start()
    before = len(job.finishes)
    plane.wait(lambda: len(job.finishes) > before)
    assert all(finish == job.finishes[0] for finish in job.finishes) and count.read_text() == "ran\n"


def test_killed_between_claim_and_start_it_asks_again_before_it_starts(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    agent.enrolled()
    work = {"command": ["/bin/echo", "once"]}
    journalled(agent, "d_mine", **work)
    journalled(agent, "d_theirs", **work)
    mine = plane.dispatch("d_mine", ring=False, fence=2, **work)
    theirs = plane.dispatch("d_theirs", ring=False, **work)
    theirs.superseded = True
    agent.start()
    plane.wait(lambda: mine.finish)
    plane.wait(lambda: plane.count("d_theirs/claim"))
    eventually(lambda: '"closed", "epoch": 1, "id": "d_theirs"' in (agent.state_dir / "journal").read_text())
    assert mine.claims == 1 and mine.log == b"once\n" and mine.finish and mine.finish["fence"] == 2
    assert not theirs.log and not agent.run_folder("d_theirs").exists()


def test_claim_whose_answer_is_lost_is_claimed_again_and_started_once(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    agent.enrolled().start()
    plane.fault("/claim$", DROP, times=2)
    job = plane.dispatch("d_1", command=["/bin/echo", "once"])
    plane.wait(lambda: job.finish)
    assert job.claims == 3 and job.log == b"once\n"


@pytest.mark.slow
def test_a_report_that_is_answered_stand_down_after_a_restart_ends_the_child(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    agent.enrolled().start()
    job = plane.dispatch("d_1", command=["/bin/sh", "-c", "while :; do echo tick; sleep 0.05; done"])
    plane.wait(lambda: job.log)
    mark = (agent.run_folder("d_1") / "mark").read_text()
    agent.kill()
    job.superseded = True
    agent.start()
    from agent import processes

    eventually(lambda: not processes.members(pgid=0, mark=mark, trust_group=False))
    assert not job.finishes


# -- the run folder's law: whoever makes `pid` owns the run ----------------------------------------


def command(*argv: str) -> Command:
    return Command.from_work({"command": list(argv)})


def test_a_wrapper_that_wakes_up_late_does_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    assert runner.find(folder) is None  # the restarted agent has looked first: the run is its to decide
    late = runner.start(
        command("/usr/bin/touch", str(tmp_path / "ran")), folder=folder, cwd=tmp_path, environ={}, own={}
    )
    eventually(late.poll)
    assert not (tmp_path / "ran").exists()
    runner.clear(folder)
    again = runner.start(
        command("/usr/bin/touch", str(tmp_path / "ran")), folder=folder, cwd=tmp_path, environ={}, own={}
    )
    eventually(again.poll)
    assert (tmp_path / "ran").exists()


def test_a_wrapper_without_room_for_its_number_has_run_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "d_1"
    folder.mkdir()
    (folder / "pid").symlink_to("/dev/full")
    command = Command.from_work({"command": ["touch", str(tmp_path / "ran")]})
    run = runner.start(command, folder=folder, cwd=None, environ=dict(os.environ), own={})
    assert eventually(run.poll).exit_code is None, "a job that was not begun has not failed"
    assert not (tmp_path / "ran").exists()
    (tmp_path / "d_2").mkdir()
    ended = runner.start(
        Command.from_work({"command": ["/bin/sh", "-c", "exit 125"]}),
        folder=tmp_path / "d_2",
        cwd=None,
        environ=dict(os.environ),
        own={},
    )
    assert eventually(ended.poll).exit_code == 125


def test_a_run_that_began_is_found_by_whoever_comes_later(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    began = runner.start(
        command("/bin/sh", "-c", "sleep 600"), folder=folder, cwd=tmp_path, environ=os.environ, own={}
    )
    eventually(lambda: (folder / "pid").exists())
    found = runner.find(folder)
    assert found is not None and found.pid == began.pid and found.poll() is None
    assert found.end(grace_left_s=lambda: 0.0)
    assert began.poll() is not None and found.poll() is not None


def test_a_reused_process_number_is_not_taken_for_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "mark").write_text("0123456789abcdef")
    (folder / "pid").write_text(f"{os.getpid()}\n")  # somebody else's by now: ours, which must survive this
    found = runner.find(folder)
    assert found is not None
    ended = found.poll()
    assert ended is not None and ended.exit_code is None
    assert found.end(grace_left_s=lambda: 0.0)


# -- the journal -----------------------------------------------------------------------------------


def test_a_line_cut_short_by_a_crash_is_dropped_and_the_rest_survives(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, epoch=3)
    for name in ("d_1", "d_2"):
        claim = Claimed(dispatch_id=name, kind="job", fence=1, lease_s=60, work={"command": ["true"]})
        journal.claimed(claim, claimed_s=1.5, boot_id="b")
    journal.finished("d_1", FinishPost(fence=1, outcome="failed", exit_code=3, reason="r"))
    with open(path, "ab") as file:
        file.write(b'{"event": "finished", "epoch": 3, "id": "d_2", "fini')
    again = Journal(path, epoch=3)
    assert [entry.dispatch_id for entry in again.open_entries()] == ["d_1", "d_2"]
    first, second = again.open_entries()
    assert (
        first.finish == FinishPost(fence=1, outcome="failed", exit_code=3, reason="r")
        and second.finish is None
    )
    assert first.claim is not None and first.claim.work == {"command": ["true"]} and first.claimed_s == 1.5
    again.closed("d_1")
    again.finished("d_2", FinishPost(fence=1, outcome="succeeded", exit_code=0))
    last = Journal(path, epoch=3)
    assert [entry.dispatch_id for entry in last.open_entries()] == ["d_2"]
    assert last.get("d_1") is not None, "a late doorbell for a closed dispatch must still do nothing"


def test_compaction_keeps_what_is_open_and_forgets_other_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.journal.CLOSED_KEPT", 10)
    path = tmp_path / "journal"
    old = Journal(path, epoch=1)
    claim = Claimed(dispatch_id="d_old", kind="job", fence=1, lease_s=60, work={})
    old.claimed(claim, claimed_s=0, boot_id="")
    new = Journal(path, epoch=2)
    assert new.open_entries() == [] and path.read_bytes() == b""
    for number in range(12):
        new.closed(f"d_{number}")
    again = Journal(path, epoch=2)
    assert again.get("d_1") is None and again.get("d_2") is not None
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 10
    # in a long life it is compacted under way, and what comes after is in the new file
    monkeypatch.setattr("agent.journal.COMPACT_ABOVE_BYTES", 100)
    for number in range(20, 25):
        again.closed(f"d_{number}")
    assert len(path.read_text().splitlines()) == 10
    assert Journal(path, epoch=2).get("d_24") is not None and Journal(path, epoch=2).get("d_20") is not None


def test_a_full_disk_loses_neither_the_fact_in_memory_nor_the_lines_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, epoch=1)
    claim = Claimed(dispatch_id="d_1", kind="job", fence=1, lease_s=60, work={})
    journal.claimed(claim, claimed_s=0, boot_id="")
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data)[:10]))
        with pytest.raises(OSError, match="No space left"):
            journal.finished("d_1", FinishPost(fence=1, outcome="succeeded"))
    entry = journal.get("d_1")
    assert entry is not None and entry.finish is not None
    journal.closed("d_2")
    again = Journal(path, epoch=1)
    assert again.get("d_2") is not None and [e.dispatch_id for e in again.open_entries()] == ["d_1"]


@pytest.mark.slow
def test_an_agent_on_a_full_disk_starts_posts_and_gives_its_work_back(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    journalled(agent.enrolled(), "d_1", command=["true"]).closed("d_1")
    agent.start(no_room=True)
    plane.wait(lambda: plane.statuses and plane.parked)
    job = plane.dispatch("d_2", command=["true"])
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "interrupted"
    plane.wait(lambda: plane.parked)
    assert agent.end() == 0


def test_a_disk_without_room_to_compact_keeps_the_journal_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, epoch=1)
    claim = Claimed(dispatch_id="d_1", kind="job", fence=1, lease_s=60, work={})
    journal.claimed(claim, claimed_s=0, boot_id="")
    with open(path, "ab") as file:
        file.write(b'{"event": "fini')

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("agent.journal.write_private", no_room)
    again = Journal(path, epoch=1)  # an agent that starts on such a disk
    monkeypatch.setattr("agent.journal.COMPACT_ABOVE_BYTES", 0)
    again.closed("d_0")
    with open(tmp_path / "other", "ab") as other:  # gets the number of whatever was closed too early
        again.closed("d_2")
        again.finished("d_1", FinishPost(fence=1, outcome="succeeded"))
        assert other.tell() == 0 and (tmp_path / "other").stat().st_size == 0
    last = Journal(path, epoch=1)
    assert last.get("d_0") and last.get("d_2") and [e.dispatch_id for e in last.open_entries()] == ["d_1"]
    assert last.open_entries()[0].finish is not None
