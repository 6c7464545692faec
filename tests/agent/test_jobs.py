"""A doorbell becomes one child, its output arrives whole, its end is told as it was."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import pytest

from agent import processes, wire
from tests.agent.conftest import AgentProcess, eventually
from tests.agent.control_plane import ControlPlane


def test_a_job_runs_and_everything_about_it_arrives(standing: AgentProcess) -> None:
    plane = standing.server

    # exit code, both streams, the environment, nothing of ours in it
    job = plane.dispatch(
        "d_env",
        command=["/bin/sh", "-c", "echo out; echo err >&2; env; pwd; exit 3"],
        env={"MINE": "a b;$(c)", "PATH": os.environ["PATH"]},
        job_id="j_9",
        attempt=2,
    )
    plane.wait(lambda: job.finish)
    text = job.log.decode()
    assert job.finish == {
        "fence": 1,
        "outcome": "failed",
        "exit_code": 3,
        "reason": "exited with code 3",
        "result": {},
    }
    assert text.startswith("out\nerr\n") and "MINE=a b;$(c)\n" in text and "SEEN=by children\n" in text
    assert (
        "DORMOUSE_JOB_ID=j_9\n" in text
        and "DORMOUSE_ATTEMPT=2\n" in text
        and "DORMOUSE_WORKER_ID=w_1\n" in text
    )
    assert "JOIN_TOKEN" not in text and plane.secrets[0] not in text and "AGENT_" not in text
    assert text.rstrip().endswith("/jobs/d_env/work")

    # words are words: nothing is read as shell, and the shell's own words are programs here
    words = ["printf", "%s|", "$(touch pwned)", "`id`", "a;b", "--", "*", "'\"", ""]
    job = plane.dispatch("d_words", command=words)
    plane.wait(lambda: job.finish)
    assert job.log.decode() == "$(touch pwned)|`id`|a;b|--|*|'\"||"
    job = plane.dispatch("d_builtin", command=["trap"])
    plane.wait(lambda: job.finish)
    assert job.finish is not None
    assert (
        job.finish["reason"] == "program 'trap' was not found on this machine's PATH"
        and "exit_code" not in job.finish
    )

    # scripts: bash, or what their first line says
    job = plane.dispatch(
        "d_bash", script="set -o pipefail\nfalse | true\necho $? ${BASH_VERSION:+bash} ünï\n"
    )
    plane.wait(lambda: job.finish)
    assert job.log.decode() == "1 bash ünï\n" and job.finish and job.finish["outcome"] == "succeeded"
    job = plane.dispatch("d_python", script="#!/usr/bin/env python3\nimport sys\nprint(sys.argv[0][-6:])\n")
    plane.wait(lambda: job.finish)
    assert job.log.decode() == "script\n"

    # killed by a signal
    job = plane.dispatch("d_signal", command=["/bin/sh", "-c", "kill -SEGV $$"])
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["exit_code"] == 139 and job.finish["reason"] == "killed by SIGSEGV"

    # what cannot be started is said, field by field
    for number, (work, why) in enumerate(
        [
            ({}, "give a command or a script, one of the two"),
            ({"command": ["true"], "script": "true"}, "give a command or a script, one of the two"),
            ({"command": "true"}, "command must be a list of texts"),
            ({"command": ["true", "nul\0"]}, "command must be a list of texts"),
            ({"command": ["true"], "env": {"A=B": "c"}}, "env name 'A=B' is not a variable's name"),
            ({"command": ["true", "x" * 3_000_000]}, "larger than this system takes"),
            ({"command": ["true"], "timeout_s": -1}, "timeout_s must be a number of seconds"),
        ]
    ):
        job = plane.dispatch(f"d_bad_{number}", **work)  # type: ignore[arg-type]
        plane.wait(lambda job=job: job.finish)
        assert job.finish and job.finish["outcome"] == "failed" and why in job.finish["reason"]

    # nothing of finished jobs stays but working folders with something in them
    job = plane.dispatch("d_file", command=["/bin/sh", "-c", "echo checkpoint > model.bin"])
    plane.wait(lambda: job.finish)
    folder = standing.run_folder("d_file")
    eventually(lambda: sorted(path.name for path in folder.rglob("*")) == ["model.bin", "owner", "work"])
    eventually(
        lambda: not standing.run_folder("d_words").exists() and not standing.run_folder("d_bad_0").exists()
    )


@pytest.mark.slow
def test_output_is_delivered_by_offset_at_most_four_times_a_second(standing: AgentProcess) -> None:
    plane = standing.server
    size = 3 * wire.LOG_CHUNK_LIMIT_BYTES
    plane.fault("/log$", "drop")  # the first chunk arrives, its answer does not
    started = time.monotonic()
    job = plane.dispatch(
        "d_big", command=["/bin/sh", "-c", f"head -c {size} /dev/urandom | tee kept; sleep 0.3; echo last"]
    )
    plane.wait(lambda: job.finish)
    kept = (standing.run_folder("d_big") / "work" / "kept").read_bytes()
    assert bytes(job.log) == kept + b"last\n"
    assert job.log_posts <= 4 * (time.monotonic() - started) + 3
    # the server says that it has less than was sent: the rest comes again from there
    plane.wait(lambda: plane.parked)
    job = plane.dispatch("d_back", command=["/bin/sh", "-c", "echo one; sleep 0.4; echo two"])
    plane.wait(lambda: job.log)
    job.log.clear()
    plane.wait(lambda: job.finish)
    assert job.log.decode() == "one\ntwo\n"


@pytest.mark.slow
def test_the_same_doorbell_twice_starts_one_child(
    plane: ControlPlane, agent: AgentProcess, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    agent.enrolled().start()
    job = plane.dispatch("d_1", command=["/bin/sh", "-c", f"echo ran >> {count}; sleep 0.2"])
    plane.ring("d_1")
    plane.wait(lambda: job.finish)
    plane.ring("d_1")
    plane.ring("no such dispatch at all")
    plane.ring("d_unknown")
    other = plane.dispatch("d_2", command=["true"])
    plane.wait(lambda: other.finish)
    assert count.read_text() == "ran\n" and job.claims == 1 and len(job.finishes) == 1
    assert plane.count("d_unknown/claim") == 1 and plane.count("no such") == 0
    # also when it is an old story to a new process
    agent.end()
    agent.start()
    plane.ring("d_1")
    last = plane.dispatch("d_3", command=["true"])
    plane.wait(lambda: last.finish)
    assert count.read_text() == "ran\n" and job.claims == 1


def test_child_starts_within_tens_of_milliseconds_of_the_doorbell(standing: AgentProcess) -> None:
    plane = standing.server
    latencies_ms = []
    for number in range(15):
        job = plane.dispatch(f"d_quick_{number}", ring=False, command=["/bin/date", "+%s.%N"])
        plane.wait(lambda: plane.parked)
        rung = time.time()
        plane.ring(f"d_quick_{number}")
        plane.wait(lambda job=job: job.finish)
        latencies_ms.append(1000 * (float(job.log) - rung))
    print("doorbell to child, ms:", " ".join(f"{value:.1f}" for value in sorted(latencies_ms)))
    assert statistics.median(latencies_ms) < 100


def test_cancel_ends_a_group_that_ignores_sigterm_and_what_left_the_group(standing: AgentProcess) -> None:
    plane = standing.server
    stubborn = (
        "trap '' TERM; (trap '' TERM; sleep 600) & setsid sh -c \"trap '' TERM; sleep 601\" & "
        "nohup setsid sleep 602 > /dev/null 2>&1 & echo up; wait; sleep 603"
    )
    job = plane.dispatch("d_stubborn", command=["/bin/sh", "-c", stubborn], grace_s=0.3)
    plane.wait(lambda: b"up" in job.log)
    mark = (standing.run_folder("d_stubborn") / "mark").read_text()
    eventually(lambda: len(processes.members(pgid=0, mark=mark, trust_group=False)) >= 5)
    plane.orders = [{"kind": "cancel", "id": "d_stubborn"}]
    plane.ring(wire.RING_STATUS)
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "cancelled" and job.finish["exit_code"] > 128
    assert processes.members(pgid=0, mark=mark, trust_group=False) == []


def test_cancel_gives_the_child_its_grace(standing: AgentProcess) -> None:
    plane = standing.server
    job = plane.dispatch(
        "d_grace",
        script="trap 'echo saving; sleep 0.3; echo saved; exit 0' TERM\necho up\nwhile :; do sleep 0.05; done",
        grace_s=30,
    )
    plane.wait(lambda: b"up" in job.log)
    plane.orders = [{"kind": "cancel", "id": "d_grace"}]
    plane.ring(wire.RING_STATUS)
    plane.wait(lambda: job.finish)
    # (Its own shell says that the group's SIGTERM ended the `sleep` as well.)
    assert job.log.decode().replace("Terminated\n", "") == "up\nsaving\nsaved\n"
    assert job.finish == {
        "fence": 1,
        "outcome": "cancelled",
        "exit_code": 0,
        "reason": "cancelled",
        "result": {},
    }


def test_a_job_that_takes_too_long_is_ended_and_fails(standing: AgentProcess) -> None:
    plane = standing.server
    job = plane.dispatch("d_long", command=["/bin/sh", "-c", "echo up; sleep 600"], timeout_s=0.3, grace_s=5)
    plane.wait(lambda: job.finish)
    assert (
        job.finish and job.finish["outcome"] == "failed" and job.finish["reason"] == "timed out after 0.3 s"
    )
    assert job.log.decode().replace("Terminated\n", "") == "up\n"


@pytest.mark.slow
def test_a_job_leaves_nothing_running_and_a_command_may_leave_a_service(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    workspace = agent.state_dir.with_name("workspace")
    agent.enrolled().start("--workspace", str(workspace))
    leave = ["/bin/sh", "-c", "sleep 600 & echo $!; pwd"]
    job = plane.dispatch("d_job", command=leave)
    plane.wait(lambda: job.finish)
    pid, cwd = job.log.decode().split()
    assert job.finish and job.finish["outcome"] == "succeeded" and cwd == str(workspace)
    assert not Path(f"/proc/{pid}").exists() or "zombie" in Path(f"/proc/{pid}/status").read_text()
    command = plane.dispatch("d_command", kind="command", command=leave)
    plane.wait(lambda: command.finish)
    service = Path(f"/proc/{command.log.decode().split()[0]}")
    assert service.exists()
    # it stays through a crash of the agent, and ends with the agent
    agent.kill()
    agent.start("--workspace", str(workspace))
    other = plane.dispatch("d_other", command=["true"])
    plane.wait(lambda: other.finish)
    assert service.exists()
    assert agent.end() == 0
    eventually(lambda: not service.exists() or "zombie" in (service / "status").read_text())


def test_a_machine_that_cannot_start_a_job_gives_it_back(plane: ControlPlane, agent: AgentProcess) -> None:
    agent.enrolled().start("--workspace", "/dev/null/not-a-folder")
    job = plane.dispatch("d_1", command=["true"])
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "interrupted" and "Not a directory" in job.finish["reason"]


def test_what_a_job_left_is_gone_before_somebody_elses_starts(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    """Also of one whose owner is not known. What the owner herself has left stays."""
    agent.enrolled().start()
    jobs = agent.state_dir / "jobs"

    def left(dispatch_id: str, owner: str, *, look: str = "true") -> str:
        command = ["/bin/sh", "-c", f"ls {jobs}; {look}; echo mine > left"]
        job = plane.dispatch(dispatch_id, command=command, owner=owner)
        plane.wait(lambda: job.finish)
        eventually(lambda: not (jobs / dispatch_id / "pid").exists())
        return job.log.decode()

    left("d_alice1", "1")
    (jobs / "d_unknown" / "work").mkdir(parents=True)
    assert left("d_alice2", "1").split() == ["d_alice1", "d_alice2"]
    running = plane.dispatch("d_alice3", command=["/bin/sh", "-c", "echo up; sleep 600"], owner="1")
    plane.wait(lambda: running.log)
    assert left("d_bob", "2").split() == ["d_alice3", "d_bob"], "what still runs is left alone"
    assert (jobs / "d_bob").stat().st_mode & 0o777 == 0o700
    assert (jobs / "d_bob" / "work" / "left").read_text() == "mine\n"
