"""However an agent ends, nothing of it is left running, and the control plane hears why if it wants to."""

from __future__ import annotations

import datetime
import os
import signal
import time
from pathlib import Path

import pytest

from agent import processes, wire
from agent.session import limit_keep, limit_kept
from tests.agent.conftest import AgentProcess, eventually
from tests.agent.control_plane import STAND_DOWN, ControlPlane, Dispatch

STUBBORN = ["/bin/sh", "-c", "trap '' TERM; (trap '' TERM; sleep 600) & setsid sleep 601 & echo up; wait"]


def running(plane: ControlPlane, agent: AgentProcess, **work: object) -> tuple[Dispatch, str]:
    """A job whose processes ignore SIGTERM, and the mark by which they are found."""
    job = plane.dispatch("d_1", **{"command": STUBBORN, "grace_s": 60, **work})  # type: ignore[arg-type]
    plane.wait(lambda: b"up" in job.log)
    return job, (agent.run_folder("d_1") / "mark").read_text()


@pytest.mark.parametrize(
    ("number", "grace_s"), [pytest.param(signal.SIGTERM, 60, marks=pytest.mark.slow), (signal.SIGHUP, 0.1)]
)
def test_a_signal_ends_everything_within_ten_seconds_and_reports_interrupted(
    plane: ControlPlane, agent: AgentProcess, number: signal.Signals, grace_s: float
) -> None:
    agent.enrolled().start()
    job, mark = running(plane, agent, grace_s=grace_s)
    assert agent.process is not None
    started = time.monotonic()
    agent.process.send_signal(number)
    assert agent.wait() == 0
    assert time.monotonic() - started < 10
    assert processes.members(pgid=0, mark=mark, trust_group=False) == []
    assert job.finish and job.finish["outcome"] == "interrupted"
    assert job.finish["reason"] == f"told to end by {number.name}"
    assert not (agent.state_dir / "health.port").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["echo up; sleep 600", "trap 'exit 1' TERM; echo up; while :; do sleep 0.01; done"]
)
def test_a_job_that_the_machines_shutdown_ends_before_its_agent_is_interrupted_not_failed(
    plane: ControlPlane, agent: AgentProcess, command: str
) -> None:
    agent.enrolled().start()
    job = plane.dispatch("d_1", command=["/bin/sh", "-c", command])
    plane.wait(lambda: b"up" in job.log)
    assert agent.process is not None
    os.killpg(int((agent.run_folder("d_1") / "pid").read_text()), signal.SIGTERM)
    agent.process.send_signal(signal.SIGTERM)
    assert agent.wait() == 0
    assert job.finish and job.finish["outcome"] == "interrupted"
    assert job.finish["reason"] == "told to end by SIGTERM"
    assert job.finish["result"] == {wire.WORKER_ENDS: True}


def test_a_job_that_was_killed_while_its_agent_was_away_is_interrupted_not_failed(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    """The power went: the machine told the job to end, and took its agent before that could say anything."""
    agent.enrolled().start()
    job = plane.dispatch("d_1", command=["/bin/sh", "-c", "echo up; sleep 600"])
    plane.wait(lambda: b"up" in job.log)
    agent.kill()
    os.killpg(int((agent.run_folder("d_1") / "pid").read_text()), signal.SIGTERM)
    eventually(lambda: (agent.run_folder("d_1") / "exit").exists())
    agent.start()
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "interrupted"
    assert job.finish["reason"] == "killed by SIGTERM while its agent was away"


@pytest.mark.slow
def test_a_job_that_somebody_kills_while_its_agent_goes_on_has_failed(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    agent.enrolled().start()
    job = plane.dispatch("d_1", command=["/bin/sh", "-c", "kill -KILL $$"])
    plane.wait(lambda: job.finish)
    assert job.finish and (job.finish["outcome"], job.finish["exit_code"]) == ("failed", 137)


def test_a_signal_while_it_only_waits_ends_it_at_once(plane: ControlPlane, agent: AgentProcess) -> None:
    agent.enrolled().start()
    plane.wait(lambda: plane.parked)
    started = time.monotonic()
    assert agent.end() == 0
    assert time.monotonic() - started < 1.5, "the poll that waits for 25 s was not cut short"
    last = plane.statuses[-1]
    assert (last["status"], last["jobs"], last["epoch"]) == (wire.ENDED, [], 1)


@pytest.mark.slow
def test_it_posts_while_its_last_child_uses_its_grace_and_then_says_goodbye(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    plane.next_in_s = 0.05
    agent.enrolled().start()
    script = "trap 'sleep 0.5; exit 0' TERM\necho up\nwhile :; do sleep 0.05; done"
    job = plane.dispatch("d_1", script=script, grace_s=30)
    plane.wait(lambda: b"up" in job.log and agent.process)
    count = len(plane.statuses)
    assert agent.end() == 0
    words = [(post["status"], post["jobs"]) for post in plane.statuses[count:]]
    assert words.count((wire.DRAINING, ["d_1"])) > 3 and words[-1] == (wire.ENDED, [])
    assert job.finish and job.finish["outcome"] == "interrupted"


@pytest.mark.slow
def test_it_says_no_goodbye_while_it_owes_a_report(plane: ControlPlane, agent: AgentProcess) -> None:
    agent.enrolled().start()
    job = plane.dispatch("d_1", command=["true"])
    plane.fault("/finish$", (503, {}), times=10_000)
    plane.wait(lambda: plane.count("/finish$"))
    assert agent.end() == 0
    assert wire.ENDED not in [post["status"] for post in plane.statuses]
    plane.faults.clear()
    agent.start()
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "succeeded"


@pytest.mark.slow
@pytest.mark.parametrize("provider", ["colab", "kaggle"])
def test_a_machine_that_is_given_back_says_goodbye_although_it_owes_a_report(
    plane: ControlPlane, agent: AgentProcess, provider: str
) -> None:
    agent.enrolled().start("--provider", provider)
    job = plane.dispatch("d_1", command=["true"])
    plane.fault("/finish$", (503, {}), times=10_000)
    plane.wait(lambda: plane.count("/finish$"))
    assert agent.process is not None
    agent.process.send_signal(signal.SIGTERM)
    tried = plane.count("/finish$")
    assert agent.wait() == 0
    assert plane.count("/finish$") > tried, "the report is tried until then"
    assert plane.statuses[-1]["status"] == wire.ENDED and not job.finish


@pytest.mark.slow
def test_a_job_that_comes_too_late_for_its_own_end_is_given_back_and_never_started(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    plane.settings = {"max_session_hours": 1.0}
    began = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=50)
    agent.enrolled().start("--session-started", began.isoformat())
    started = agent.state_dir.with_name("started")
    job = plane.dispatch("d_1", script=f"touch {started}", grace_s=700)
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "interrupted"
    assert job.finish["result"] == {wire.WORKER_ENDS: True, wire.NOT_STARTED: True}
    assert agent.wait() == 0 and not started.exists()


@pytest.mark.slow
def test_when_the_accounts_week_is_used_up_it_ends_by_itself_before_its_session_would(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    plane.settings = {"max_session_hours": 8.5}
    plane.orders = [{"kind": "end_by", "id": "1.5"}, {"kind": "end_by", "id": "soon"}]
    agent.enrolled().start()
    script = "trap 'echo saving; sleep 0.5; echo saved; exit 0' TERM\necho up\nwhile :; do sleep 0.05; done"
    job = plane.dispatch("d_1", script=script, grace_s=30)
    plane.wait(lambda: b"up" in job.log)
    assert not job.finish
    # The provider itself says that nothing is left of it.
    plane.orders = [{"kind": "end_by", "id": "0.000000"}]
    plane.ring(wire.RING_STATUS)
    plane.wait(lambda: job.finish)
    assert agent.wait() == 0
    assert b"saved" in job.log
    assert job.finish and job.finish["outcome"] == "interrupted" and "week" in job.finish["reason"]
    assert plane.statuses[-1]["status"] == wire.ENDED


def test_a_signal_while_it_cannot_enrol_ends_it_at_once(plane: ControlPlane, agent: AgentProcess) -> None:
    plane.close()
    agent.start(env={"AGENT_BACKOFF_CAP_S": "3600"})
    while "cannot enrol yet" not in agent.log():
        time.sleep(0.01)
    started = time.monotonic()
    assert agent.end() == 0
    assert time.monotonic() - started < 1.5


@pytest.mark.slow
def test_the_end_does_not_wait_for_a_control_plane_that_is_away_and_reports_when_it_is_back(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    agent.enrolled().start()
    job, mark = running(plane, agent, grace_s=0)
    plane.close()
    started = time.monotonic()
    assert agent.end() == 0
    assert time.monotonic() - started < 10
    assert processes.members(pgid=0, mark=mark, trust_group=False) == []
    plane.open()
    agent.start()
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "interrupted"


@pytest.mark.slow
def test_at_the_session_limit_it_ends_by_itself_with_the_jobs_own_grace(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    plane.settings = {"max_session_hours": 8 / 3600}
    agent.enrolled().start()
    script = "trap 'echo saving; sleep 0.5; echo saved; exit 0' TERM\necho up\nwhile :; do sleep 0.05; done"
    job = plane.dispatch("d_1", script=script, grace_s=30)
    plane.wait(lambda: job.finish)
    assert agent.wait() == 0
    assert b"saved" in job.log
    assert job.finish and job.finish["outcome"] == "interrupted" and "limit of" in job.finish["reason"]


@pytest.mark.slow
def test_limit_holds_also_for_an_agent_that_is_started_again_while_the_server_is_away(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    plane.settings = {"max_session_hours": 6 / 3600}
    agent.start()
    plane.wait(lambda: plane.parked)
    agent.kill()
    plane.close()
    agent.start(join=False)
    # It still tries to say good-bye to whoever is away; that it ends is decided.
    eventually(
        lambda: 'ending reason="the session\'s limit of 0.00166667 h is reached"' in agent.log(), within_s=15
    )


def test_limit_of_another_epoch_is_not_this_ones(tmp_path: Path) -> None:
    limit_keep(tmp_path, epoch=1, hours=8.5)
    assert limit_kept(tmp_path, epoch=1) == 8.5
    assert limit_kept(tmp_path, epoch=2) is None
    limit_keep(tmp_path, epoch=1, hours=None)
    assert limit_kept(tmp_path, epoch=1) is None


@pytest.mark.parametrize("how", ["status", "queue", "order", "epoch"])
def test_stand_down_kills_what_runs_changes_nothing_more_and_ends_with_3(
    plane: ControlPlane, agent: AgentProcess, how: str
) -> None:
    agent.enrolled().start()
    job, mark = running(plane, agent)
    posts = job.log_posts
    if how == "status":
        plane.fault(wire.STATUS, STAND_DOWN)
        plane.ring(wire.RING_STATUS)
    elif how == "queue":
        plane.fault(wire.QUEUE, STAND_DOWN, times=100)
        plane.ring("d_whatever")
    elif how == "order":
        plane.orders = [{"kind": "stand_down", "id": ""}]
        plane.ring(wire.RING_STATUS)
    else:
        plane.answer_epoch = 2
        plane.ring(wire.RING_STATUS)
    started = time.monotonic()
    assert agent.wait() == 3
    assert time.monotonic() - started < 5, "the job's grace of 60 s is not for a box that was replaced"
    assert processes.members(pgid=0, mark=mark, trust_group=False) == []
    assert not job.finishes and job.log_posts == posts


@pytest.mark.slow
def test_an_attempt_that_was_given_to_another_worker_is_killed_and_the_agent_goes_on(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    agent.enrolled().start()
    job = plane.dispatch(
        "d_1", command=["/bin/sh", "-c", "trap '' TERM; while :; do echo tick; sleep 0.05; done"]
    )
    plane.wait(lambda: job.log)
    mark = (agent.run_folder("d_1") / "mark").read_text()
    job.superseded = True
    other = plane.dispatch("d_2", command=["/bin/sh", "-c", "sleep 1; echo done"])
    plane.wait(lambda: other.finish)
    assert processes.members(pgid=0, mark=mark, trust_group=False) == []
    assert not job.finishes and other.log == b"done\n"
    plane.wait(lambda: job.late)
    [late] = job.late
    assert (late["outcome"], late["reason"]) == (
        "interrupted",
        "stood down: this attempt was over while it ran",
    )
    assert late["output_tail"].startswith("tick\n") and late["output_bytes"] >= len("tick\n")


@pytest.mark.slow
def test_a_result_that_comes_too_late_is_told_once_with_its_last_output(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    """The network was cut; meanwhile the job ended here, and was given to somebody else there."""
    agent.enrolled().start()
    go = agent.state_dir.with_name("go")
    script = f"seq 1 10000; while [ ! -e {go} ]; do sleep 0.02; done; echo the end; exit 7"
    job = plane.dispatch("d_1", script=script)
    plane.wait(lambda: job.log)
    plane.close()
    go.touch()
    eventually(lambda: "ended outcome=failed exit_code=7" in agent.log())
    job.superseded = True
    plane.open()
    plane.wait(lambda: job.late)
    [late] = job.late
    assert (late["outcome"], late["exit_code"], late["fence"]) == ("failed", 7, 1)
    assert late["output_tail"].endswith("9999\n10000\nthe end\n")
    assert len(late["output_tail"]) == wire.OUTPUT_TAIL_BYTES < late["output_bytes"] == 48_894 + 8
    eventually(lambda: not agent.run_folder("d_1").exists())
    assert not job.finishes
