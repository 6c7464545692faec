"""Secrets rotate without a moment in which the disk holds none that is good."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import wire
from agent.client import Client, Http, Refused, Unreachable
from agent.errors import AgentError, EnrolmentRefused, Superseded, UsageError
from agent.files import FolderLock
from agent.identity import Identity, Keyring, check_same_place, enrol, load
from tests.agent.control_plane import DROP, STAND_DOWN, ControlPlane


class Box:
    """A state directory with an identity, and what a fresh process would make of it."""

    def __init__(self, plane: ControlPlane, state_dir: Path) -> None:
        self.plane = plane
        self.state_dir = state_dir
        self.http = Http(plane.url)
        self.refused: list[AgentError] = []
        self.settings: list[wire.AgentSettings] = []

    def enrol(self) -> Identity:
        identity, _ = enrol(
            http=self.http, token="join-1", name="n", provider="", state_dir=self.state_dir, gpus=(), session_runtime_hours=0.5
        )  # fmt: skip
        return identity

    def client(self) -> Client:
        identity = load(self.state_dir)
        assert identity is not None
        keyring = Keyring(
            http=self.http,
            identity=identity,
            state_dir=self.state_dir,
            on_settings=self.settings.append,
            on_refused=self.refused.append,
        )
        return Client(self.http, keyring)

    def on_disk(self) -> str:
        identity = load(self.state_dir)
        assert identity is not None
        return identity.secret


@pytest.fixture
def box(plane: ControlPlane, tmp_path: Path) -> Iterator[Box]:
    made = Box(plane, tmp_path)
    yield made
    made.http.close()


def say(client: Client) -> None:
    client.post(wire.STATUS, {"worker_id": "w_1", "epoch": 1})


def test_enrolment_whose_answer_is_lost_is_asked_again_and_is_one_enrolment(
    plane: ControlPlane, box: Box
) -> None:
    plane.fault(wire.ENROLL, DROP)
    with pytest.raises(Unreachable):
        box.enrol()
    assert load(box.state_dir) is None
    again = Box(plane, box.state_dir)  # as a process that was killed and started again
    assert again.enrol().worker_id == "w_1"
    again.http.close()
    assert len({body["request_id"] for body in plane.enrolments}) == 1 and len(plane.enrolments) == 2
    assert "join-1" not in "".join(path.read_text() for path in box.state_dir.iterdir())


def test_each_token_brings_the_next_secret_and_it_is_on_disk_before_it_is_used(
    plane: ControlPlane, box: Box
) -> None:
    box.enrol()
    client = box.client()
    say(client)
    for _ in range(3):
        known = box.on_disk()
        assert known == plane.secrets[-1]
        plane.access.clear()
        say(client)
        assert plane.trades[-1] == known and box.on_disk() != known


def test_a_full_disk_stops_no_renewal_and_the_secret_on_it_stays_good(
    plane: ControlPlane, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.enrol()
    client = box.client()
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", _no_space)
        for _ in range(3):
            plane.access.clear()
            say(client)
    assert set(plane.trades) == {plane.secrets[0]} and box.on_disk() == plane.secrets[0]
    plane.access.clear()
    say(client)
    say(box.client())  # as a process that was killed and started again
    assert not box.refused and len(plane.statuses) == 5


def _no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_lost_answer_is_asked_again_with_the_old_secret(plane: ControlPlane, box: Box) -> None:
    box.enrol()
    plane.fault(wire.TOKEN, DROP, times=2)
    client = box.client()
    for _ in range(2):
        with pytest.raises(Unreachable):
            say(client)
    say(box.client())  # as a process that was killed and started again
    assert plane.trades == [plane.secrets[0]] * 3


def test_token_is_renewed_after_two_thirds_of_its_life_without_being_refused(
    plane: ControlPlane, box: Box
) -> None:
    box.enrol()
    plane.access_life_s = 1
    client = box.client()
    say(client)
    plane.access_life_s = 900
    while len(plane.trades) < 2:
        say(client)
    assert not plane.count("status") > 2000 and len(plane.statuses) == plane.count("status")


def test_a_renewal_that_fails_leaves_the_living_token_in_use(plane: ControlPlane, box: Box) -> None:
    box.enrol()
    plane.access_life_s = 1
    client = box.client()
    say(client)
    plane.fault(wire.TOKEN, (503, {}), times=1)
    while plane.faults:
        say(client)
    say(client)
    assert len(plane.trades) == 1


def test_a_control_plane_set_back_to_a_backup_still_knows_the_secret_before(
    plane: ControlPlane, box: Box
) -> None:
    box.enrol()
    say(box.client())
    del plane.secrets[1:]
    plane.spent.clear()
    say(box.client())
    assert plane.trades[-1] == plane.secrets[0] and not box.refused


def test_a_refused_identity_is_told_once_with_what_to_do(plane: ControlPlane, box: Box) -> None:
    box.enrol()
    plane.secrets.clear()
    with pytest.raises(Refused):
        say(box.client())
    assert isinstance(box.refused[0], EnrolmentRefused) and "join again with a fresh token" in str(
        box.refused[0]
    )


def test_stand_down_and_a_newer_epoch_are_told_as_superseded(plane: ControlPlane, box: Box) -> None:
    box.enrol()
    plane.fault(wire.TOKEN, STAND_DOWN)
    with pytest.raises(Refused):
        say(box.client())
    plane.epoch = 2
    with pytest.raises(Refused):
        say(box.client())
    assert [type(error) for error in box.refused] == [Superseded, Superseded]
    assert "epoch 2" in str(box.refused[1])


def test_settings_come_with_every_token(plane: ControlPlane, box: Box) -> None:
    box.enrol()
    plane.settings = {"max_session_hours": 8.5, "transport": {"kind": "redis", "url": "redis://x"}}
    say(box.client())
    assert box.settings[-1].max_session_hours == 8.5 and box.settings[-1].transport["kind"] == "redis"


def test_an_answer_that_is_no_credentials_is_no_refusal(plane: ControlPlane, box: Box) -> None:
    plane.fault(wire.ENROLL, (200, {"html": "log in to the hotel's network"}))
    with pytest.raises(Unreachable):
        box.enrol()


@pytest.mark.parametrize("status", [401, 403, 404, 409])
def test_a_refusal_by_something_else_than_the_control_plane_ends_nothing(
    plane: ControlPlane, box: Box, status: int
) -> None:
    box.enrol()
    plane.fault(wire.TOKEN, (status, {"error": "no upstream"}))
    client = box.client()
    with pytest.raises(Unreachable, match="something else than the control plane"):
        say(client)
    plane.fault(wire.TOKEN, (302, {}), headers={"Location": "https://login.example/"})
    with pytest.raises(Unreachable, match="has moved"):
        say(client)
    say(client)
    assert not box.refused


def test_an_address_that_moved_is_a_refusal_that_names_it(plane: ControlPlane, box: Box) -> None:
    plane.fault(wire.ENROLL, (301, {}), headers={"Location": "https://new.example/api"})
    with pytest.raises(EnrolmentRefused, match=r"moved to https://new\.example"):
        box.enrol()


def test_a_state_directory_belongs_to_one_control_plane(tmp_path: Path) -> None:
    identity = Identity(url="https://a.example", worker_id="w_1", epoch=1, secret="s")
    check_same_place(identity, url=None, state_dir=tmp_path)
    check_same_place(identity, url="https://a.example", state_dir=tmp_path)
    with pytest.raises(
        UsageError, match=r"belongs to worker w_1 of https://a\.example, not to https://b\.example"
    ):
        check_same_place(identity, url="https://b.example", state_dir=tmp_path)


@pytest.mark.parametrize(
    ("text", "why"), [("{half", "is not JSON"), ("[]", "JSON object"), ('{"worker": 1}', "not an identity")]
)
def test_a_damaged_identity_is_named_and_not_overwritten(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "identity.json").write_text(text)
    with pytest.raises(UsageError, match=why):
        load(tmp_path)
    assert (tmp_path / "identity.json").read_text() == text


def test_a_second_agent_in_the_same_state_directory_gives_up_with_a_sentence(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    first.take(patience_s=0)
    with pytest.raises(UsageError, match="another agent"):
        FolderLock(tmp_path).take(patience_s=0.1)


def test_secrets_do_not_show_in_a_repr() -> None:
    identity = Identity(
        url="https://a.example", worker_id="w_1", epoch=1, secret="s3cret", previous_secret="s2cret"
    )
    assert "cret'" not in repr(identity) and "s3cret" not in repr(identity)
    assert (
        json.dumps(wire.to_json(wire.TokenPost(worker_id="w_1", secret="s")))
        == '{"worker_id": "w_1", "secret": "s"}'
    )
