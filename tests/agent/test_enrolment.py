"""An agent enrols once, keeps its identity through everything, and says clearly where it cannot."""

from __future__ import annotations

import stat

import pytest

from agent import wire
from tests.agent.conftest import AgentProcess
from tests.agent.control_plane import DROP, ControlPlane


def test_first_status_comes_within_a_second_and_the_identity_is_private(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    agent.start("--name", "colab-1", "--provider", "colab")
    plane.wait(lambda: plane.statuses)
    enrolment = plane.enrolments[0]
    assert (
        enrolment["token"] == "join-1" and enrolment["name"] == "colab-1" and enrolment["provider"] == "colab"
    )
    assert plane.statuses[0]["worker_id"] == "w_1" and plane.statuses[0]["epoch"] == 1
    identity = agent.state_dir / "identity.json"
    assert stat.S_IMODE(identity.stat().st_mode) == 0o600
    assert stat.S_IMODE(agent.state_dir.stat().st_mode) == 0o700
    assert "join-1" not in identity.read_text()


def test_token_may_come_from_the_environment_alone(plane: ControlPlane, agent: AgentProcess) -> None:
    agent.start(join=False, env={"DORMOUSE_URL": plane.url + "/", "DORMOUSE_JOIN_TOKEN": "join-1"})
    plane.wait(lambda: plane.statuses)
    assert agent.process is not None
    with open(f"/proc/{agent.process.pid}/cmdline", "rb") as words:
        assert b"join-1" not in words.read()


def test_enrolment_survives_a_kill_between_its_answer_and_the_disk(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    plane.fault(wire.ENROLL, DROP, times=1000)
    agent.start()
    plane.wait(lambda: plane.enrolments)
    agent.kill()
    plane.faults.clear()
    agent.start()
    plane.wait(lambda: plane.statuses)


def test_control_plane_that_is_away_at_the_start_is_waited_for(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    plane.close()
    agent.start()
    while "cannot enrol yet" not in agent.log():
        assert agent.process is not None and agent.process.poll() is None
    plane.open()
    plane.wait(lambda: plane.statuses)


@pytest.mark.slow
def test_a_used_token_ends_with_4_and_says_what_to_do(plane: ControlPlane, agent: AgentProcess) -> None:
    plane.join_tokens["join-1"] = "somebody else's request"
    agent.start()
    assert agent.wait() == 4
    assert "this token has been used" in agent.log() and "make a new one" in agent.log()


def test_no_token_and_no_identity_ends_with_4(plane: ControlPlane, agent: AgentProcess) -> None:
    agent.start("--join", plane.url, join=False)
    assert agent.wait() == 4
    assert "DORMOUSE_JOIN_TOKEN" in agent.log()


@pytest.mark.slow
def test_no_secret_reaches_the_log(plane: ControlPlane, agent: AgentProcess) -> None:
    agent.start(env={"AGENT_LOG": "debug"})
    plane.wait(lambda: plane.statuses and plane.parked)
    plane.access.clear()
    plane.ring(wire.RING_STATUS)
    plane.wait(lambda: len(plane.statuses) == 2)
    agent.end()
    text = agent.log()
    assert "DEBUG" in text
    for secret in (*plane.secrets, *plane.access, "join-1"):
        assert secret not in text


def test_started_again_it_is_the_same_worker_even_where_join_is_given_again(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    agent.enrolled().start(join=True)
    plane.wait(lambda: plane.statuses)
    assert len(plane.enrolments) == 1


def test_another_address_is_refused_with_a_sentence(plane: ControlPlane, agent: AgentProcess) -> None:
    agent.enrolled().start("--join", "https://elsewhere.example", "join-2", join=False)
    assert agent.wait() == 2
    assert f"belongs to worker w_1 of {plane.url}" in agent.log()


@pytest.mark.slow
def test_a_newer_epoch_in_the_credentials_ends_with_3(plane: ControlPlane, agent: AgentProcess) -> None:
    agent.enrolled()
    plane.epoch = 2
    agent.start()
    assert agent.wait() == 3
    assert "the control plane is at epoch 2" in agent.log()


@pytest.mark.slow
def test_an_identity_that_is_no_longer_taken_ends_with_4_and_says_how_to_join_again(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    agent.enrolled()
    plane.secrets.clear()
    agent.start(join=False)
    assert agent.wait() == 4
    assert "no longer takes worker w_1" in agent.log() and "identity.json" in agent.log()
