"""What an agent says of itself, what it is told, and what /health answers."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent import wire
from tests.agent.conftest import AgentProcess
from tests.agent.control_plane import ControlPlane


def ask(agent: AgentProcess, path: str = "/health") -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{agent.health_port()}{path}", timeout=5) as answer:
        return dict(json.load(answer))


def test_status_and_health_tell_the_session_the_gpu_and_what_runs(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    plane.settings = {"max_session_hours": 11.5}
    plane.next_in_s = 0.05
    started = (datetime.now(UTC) - timedelta(hours=2.3)).isoformat()
    agent.enrolled()
    (agent.state_dir / "simulated-gpu.json").write_text(
        '{"name": "Tesla T4", "mem_total_bytes": 16106127360}'
    )
    workspace = agent.state_dir.with_name("not-there-yet")
    agent.start(
        "--session-started", started, "--provider", "colab", "--workspace", str(workspace), probe="simulated"
    )
    plane.wait(lambda: len(plane.statuses) >= 3)
    post = plane.statuses[-1]
    assert post["gpus"][0]["name"] == "Tesla T4" and post["gpu_util"] == 0 and post["status"] == "idle"
    assert 2.29 < post["session_runtime_hours"] < 2.32 and post["max_session_hours"] == 11.5
    assert post["disk_free_bytes"] > 0 and post["sessions"]["ssh"] >= 0 and post["jobs"] == []
    assert 0 <= post["cpu_util"] <= 100 and post["net_bytes_per_s"] >= 0
    wire.StatusPost.from_json(post)

    body = ask(agent)
    assert list(body) == [
        "status", "sessionRuntimeHours", "maxSessionHours", "utilizationPercentage", "gpu", "provider", "timestamp"
    ]  # fmt: skip
    assert body["status"] == "idle" and body["gpu"] == "Tesla T4" and body["provider"] == "colab"
    assert body["maxSessionHours"] == 11.5 and 19.9 < body["utilizationPercentage"] < 20.2
    assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(agent, "/etc/passwd")
    refused.value.close()

    job = plane.dispatch("d_1", command=["/bin/sh", "-c", "echo up; sleep 600"], grace_s=0)
    plane.wait(lambda: plane.statuses[-1]["jobs"] == ["d_1"] and plane.statuses[-1]["gpu_util"] == 95)
    assert plane.statuses[-1]["status"] == "busy" and ask(agent)["status"] == "busy"
    lines = [line for line in agent.log().splitlines() if " reading " in line]
    assert "reading util=95% status=busy" in lines[-1] and lines[-1].startswith("2")

    # draining: jobs are not claimed, or given back where the server hands one over all the same; snapshots are
    plane.orders = [{"kind": "drain", "id": ""}, {"kind": "some-day", "id": ""}]
    count = len(plane.statuses)
    plane.wait(lambda: len(plane.statuses) > count + 1)
    assert ask(agent)["status"] == "draining"
    other = plane.dispatch("d_2", command=["true"])
    plane.wait(lambda: other.finish)
    assert other.claim_bodies == [{"kinds": ["snapshot", "restore", "command"]}]
    assert other.finish and (other.finish["outcome"], other.finish["reason"]) == (
        "interrupted",
        "this worker is draining",
    )
    command = plane.dispatch("d_3", kind="command", command=["true"])
    plane.wait(lambda: command.finish)
    assert command.finish and command.finish["outcome"] == "succeeded" and not job.finish
    # the drain is taken back
    plane.orders = []
    count = len(plane.statuses)
    plane.wait(lambda: len(plane.statuses) > count + 1)
    again = plane.dispatch("d_4", command=["true"])
    plane.wait(lambda: again.finish)
    assert again.finish and again.finish["outcome"] == "succeeded"


@pytest.mark.slow
def test_it_posts_when_it_is_told_to_and_at_once_when_asked(plane: ControlPlane, agent: AgentProcess) -> None:
    plane.next_in_s = 1000
    agent.enrolled().start()
    plane.wait(lambda: plane.statuses and plane.parked)
    plane.orders = [{"kind": "interrogate", "id": "q_1"}]
    plane.ring(wire.RING_STATUS)
    # one post for the doorbell, one for the order that came with its answer, and then no more
    plane.wait(lambda: len(plane.statuses) == 3)
    plane.next_in_s = 0.1
    plane.ring(wire.RING_STATUS)
    started = time.monotonic()
    plane.wait(lambda: len(plane.statuses) == 13)
    assert 0.1 * 9 * 0.9 < time.monotonic() - started < 0.1 * 9 * 1.1 + 1.5
    gaps = {round(later["session_runtime_hours"] * 3600, 2) for later in plane.statuses[3:]}
    assert len(gaps) > 5


def test_a_fantastic_interval_does_not_end_its_posts(plane: ControlPlane, agent: AgentProcess) -> None:
    plane.next_in_s = 1e300
    agent.enrolled().start()
    plane.wait(lambda: plane.statuses and plane.parked)
    count = len(plane.statuses)
    plane.ring(wire.RING_STATUS)
    plane.wait(lambda: len(plane.statuses) > count)


@pytest.mark.slow
def test_unknown_utilisation_is_null_and_never_idle(plane: ControlPlane, agent: AgentProcess) -> None:
    agent.enrolled().start(probe="none")
    plane.wait(lambda: plane.statuses)
    post = plane.statuses[0]
    assert "gpu_util" not in post and post["status"] == "unknown" and post["gpus"] == []
    assert wire.StatusPost.from_json(post).gpu_util is None
    # started again at once, the session goes on
    before = post["session_runtime_hours"]
    agent.kill()
    agent.start()
    plane.wait(lambda: len(plane.statuses) == 2)
    assert plane.statuses[1]["session_runtime_hours"] > before


def test_a_health_port_that_is_taken_is_said(plane: ControlPlane, agent: AgentProcess) -> None:
    port = plane.url.rpartition(":")[2]
    agent.enrolled().start("--health-port", port)
    assert agent.wait() == 2
    assert f"port {port} for /health is taken" in agent.log()


def test_it_says_where_its_health_can_be_asked_and_takes_that_back(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    agent.enrolled().start("--health-url", "https://gpu.example.org/health")
    plane.wait(lambda: plane.statuses)
    assert plane.statuses[0]["health_url"] == "https://gpu.example.org/health"
    agent.kill()
    agent.start()
    count = len(plane.statuses)
    plane.wait(lambda: len(plane.statuses) > count)
    assert plane.statuses[-1]["health_url"] == ""
