"""A control plane that is away, slow or confused delays things; it loses nothing."""

from __future__ import annotations

import time

import pytest

from agent import wire
from tests.agent.conftest import AgentProcess, eventually
from tests.agent.control_plane import DROP, ControlPlane


@pytest.mark.slow
def test_children_run_on_while_it_is_away_and_everything_is_delivered_when_it_is_back(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    plane.next_in_s = 0.1
    agent.enrolled().start()
    ends = plane.dispatch("d_ends", command=["/bin/sh", "-c", "echo one; sleep 0.5; echo two; exit 4"])
    goes_on = plane.dispatch(
        "d_goes_on", command=["/bin/sh", "-c", "for i in 1 2 3 4 5 6; do echo $i; sleep 0.4; done"]
    )
    plane.wait(lambda: ends.log and goes_on.log)
    plane.close()
    eventually(lambda: (agent.run_folder("d_ends") / "exit").exists())
    eventually(lambda: "control plane away" in agent.log() or "log waits" in agent.log())
    statuses = len(plane.statuses)
    plane.open()
    plane.wait(lambda: ends.finish and goes_on.finish)
    assert ends.log == b"one\ntwo\n" and goes_on.log == b"1\n2\n3\n4\n5\n6\n"
    assert ends.finish and ends.finish["exit_code"] == 4
    plane.wait(lambda: len(plane.statuses) > statuses)
    # and the queue is read again
    after = plane.dispatch("d_after", command=["true"])
    plane.wait(lambda: after.finish)


@pytest.mark.slow
def test_errors_of_the_server_are_waited_out_and_retry_after_is_honoured(standing: AgentProcess) -> None:
    plane = standing.server
    job = plane.dispatch("d_errors", ring=False, command=["/bin/sh", "-c", "echo out; exit 2"])
    plane.fault(wire.QUEUE, (503, {"code": "redis_away"}), times=3)
    plane.fault("/claim$", (500, {}), times=2)
    plane.fault("/claim$", (503, {}), headers={"Retry-After": "²"})
    plane.fault("/log$", (502, {}), times=2)
    plane.fault("/log$", DROP, times=2)
    plane.fault("/finish$", DROP, times=2)
    plane.fault("/finish$", (429, {"code": "slow_down"}), headers={"Retry-After": "1"})
    plane.ring("d_errors")
    plane.wait(lambda: plane.count("d_errors/finish$") == 3)
    started = time.monotonic()
    plane.wait(lambda: plane.count("d_errors/finish$") == 4)
    assert time.monotonic() - started >= 0.95
    assert job.log == b"out\n" and job.finish and job.finish["exit_code"] == 2
    assert job.finishes == [job.finishes[0]] * 3


@pytest.mark.slow
def test_a_token_that_expires_at_any_moment_is_renewed_and_nothing_is_lost(standing: AgentProcess) -> None:
    plane = standing.server
    job = plane.dispatch(
        "d_token", command=["/bin/sh", "-c", "for i in 1 2 3 4; do echo $i; sleep 0.3; done"]
    )
    for _ in range(4):
        trades = len(plane.trades)
        with plane.changed:
            plane.access.clear()
        plane.wait(lambda trades=trades: len(plane.trades) > trades)
    plane.wait(lambda: job.finish)
    assert job.log == b"1\n2\n3\n4\n" and job.finish and job.finish["outcome"] == "succeeded"
    assert len(plane.trades) < 25, "each expiry costs one trade, however many requests meet it"


@pytest.mark.slow
def test_output_that_is_refused_for_good_does_not_hold_back_the_report(standing: AgentProcess) -> None:
    plane = standing.server
    plane.fault("/log$", (413, {"code": "too_large", "message": "no more output is kept"}), times=100)
    job = plane.dispatch("d_refused", command=["/bin/echo", "out"])
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "succeeded"
    # a server that never moves its offset is not talked to for ever either
    plane.faults.clear()
    plane.fault("/log$", (200, {"offset": 0}), times=100)
    job = plane.dispatch("d_stuck", command=["/bin/echo", "out"])
    plane.wait(lambda: job.finish)
    assert plane.count("d_stuck/log") <= 10
