"""The routes that agents call, over HTTP: one worker's credentials against another's work."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from agent import wire
from core.agents import access_token
from pool.models import Account, Dispatch, Worker
from pool.services.dispatches import dispatch_ask
from pool.services.enrollment import enrollment_token_issue

Client = Callable[..., APIClient]
Enrol = Callable[..., Worker]


def speaking(worker: Worker, *, epoch: int | None = None) -> APIClient:
    """A client with that worker's own access token."""
    token = access_token(worker_id=worker.pk, epoch=epoch or worker.epoch, now=timezone.now())
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    return client


def ask(worker: Worker, key: str = "k") -> Dispatch:
    return dispatch_ask(worker=worker, kind="command", ref="", key=key, work={"script": "true"})


def path(row: Dispatch, verb: str) -> str:
    return wire.dispatch_path(row.pk, verb)


REPORTS: list[tuple[str, dict[str, Any]]] = [
    ("claim", {}),
    ("progress", {"fence": 1, "phase": "pack"}),
    ("log", {"fence": 1, "offset": 0, "data": base64.b64encode(b"x").decode()}),
    ("finish", {"fence": 1, "outcome": "succeeded", "exit_code": 0}),
]


def test_a_machine_joins_works_and_reports(api_client: Client, account: Account) -> None:
    post = {
        "token": enrollment_token_issue(account=account),
        "request_id": "r1",
        "name": "w",
        "gpus": [{"index": 0, "name": "T4", "util": None, "mem_total_bytes": 16, "new_field": 1}],
        "session_runtime_hours": None,
        "a_field_of_a_newer_agent": {"x": 1},
    }
    answer = api_client().post(wire.ENROLL, post)
    assert answer.status_code == 200
    given = wire.Credentials.from_json(answer.json())
    assert given.settings.check_interval_s == 30
    renewed = api_client().post(wire.TOKEN, {"worker_id": given.worker_id, "secret": given.secret})
    again = wire.Credentials.from_json(renewed.json())
    assert again.secret != given.secret

    worker = Worker.objects.get(pk=given.worker_id)
    Worker.objects.filter(pk=worker.pk).update(state="online")
    row = ask(worker)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {again.access_token}")
    claimed = wire.Claimed.from_json(client.post(path(row, "claim"), {"kinds": None}).json())
    assert claimed.work == {"script": "true"}
    assert client.post(path(row, "progress"), {"fence": 1, "phase": "x"}).json() == {"cancel": False}
    log = {"fence": 1, "offset": 0, "data": base64.b64encode(b"hi\n").decode()}
    assert client.post(path(row, "log"), log).json() == {"offset": 3}
    finish = {"fence": 1, "outcome": "succeeded", "exit_code": 0, "reason": None, "result": {"a": "\x00b"}}
    assert client.post(path(row, "finish"), finish).json() == {"accepted": True}
    row.refresh_from_db()
    assert (row.state, row.result) == ("succeeded", {"a": "b"})


@pytest.mark.parametrize(("verb", "body"), REPORTS)
def test_another_workers_credentials_open_nothing(
    api_client: Client, enrol: Enrol, verb: str, body: dict[str, Any]
) -> None:
    mine, theirs = enrol("a"), enrol("b")
    row = ask(theirs)
    if verb != "claim":
        speaking(theirs).post(path(row, "claim"), {})
    before = Dispatch.objects.filter(pk=row.pk).values().get()
    answer = speaking(mine).post(path(row, verb), body)
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"
    assert Dispatch.objects.filter(pk=row.pk).values().get() == before
    assert speaking(theirs).post(path(row, verb), body).status_code == 200


@pytest.mark.parametrize(("verb", "body"), REPORTS)
def test_an_older_box_is_told_to_stand_down(
    api_client: Client, enrol: Enrol, verb: str, body: dict[str, Any]
) -> None:
    worker = enrol("w")
    row = ask(worker)
    speaking(worker).post(path(row, "claim"), {})
    enrol("w")
    answer = speaking(worker, epoch=1).post(path(row, verb), body)
    assert (answer.status_code, answer.json()["code"]) == (409, wire.STAND_DOWN)


@pytest.mark.parametrize("verb", ["claim", "progress", "log", "finish"])
def test_neither_nobody_nor_a_person_is_an_agent(
    api_client: Client, enrol: Enrol, alice: Any, verb: str
) -> None:
    row = ask(enrol())
    for client in (api_client(), api_client(alice, "admin")):
        answer = client.post(path(row, verb), {})
        assert (answer.status_code, answer.json()["code"]) == (401, "token_expired")


def test_a_join_token_is_refused_with_what_to_do(api_client: Client, account: Account) -> None:
    answer = api_client().post(wire.ENROLL, {"token": "dj_wrong"})
    assert answer.status_code == 403
    assert answer.json() == {
        "code": "enrollment_refused",
        "message": "this join token is unknown",
        "hint": "make a new join token: POST /api/enrollment-tokens",
    }


def test_a_stolen_old_secret_revokes_and_says_stand_down(api_client: Client, account: Account) -> None:
    token = enrollment_token_issue(account=account)
    given = api_client().post(wire.ENROLL, {"token": token}).json()
    first = {"worker_id": given["worker_id"], "secret": given["secret"]}
    second = api_client().post(wire.TOKEN, first).json()
    api_client().post(wire.TOKEN, {"worker_id": given["worker_id"], "secret": second["secret"]})
    answer = api_client().post(wire.TOKEN, first)
    assert (answer.status_code, answer.json()["code"]) == (409, wire.STAND_DOWN)
    worker = Worker.objects.get(pk=given["worker_id"])
    assert worker.state == "revoked"


def test_enrolment_is_limited_to_ten_a_minute_and_address(api_client: Client) -> None:
    codes = [
        api_client().post(wire.ENROLL, {"token": "x"}, REMOTE_ADDR="192.0.2.1").status_code for _ in range(11)
    ]
    assert codes == [403] * 10 + [429]
    limited = api_client().post(wire.ENROLL, {"token": "x"}, REMOTE_ADDR="192.0.2.1")
    assert int(limited["Retry-After"]) > 0
    assert api_client().post(wire.ENROLL, {"token": "x"}, REMOTE_ADDR="192.0.2.2").status_code == 403


def test_tokens_are_limited_by_worker_and_address(api_client: Client) -> None:
    body = {"worker_id": "w_a", "secret": "1.x"}
    codes = {api_client().post(wire.TOKEN, body).status_code for _ in range(30)}
    assert codes == {409}
    assert api_client().post(wire.TOKEN, body).status_code == 429
    assert api_client().post(wire.TOKEN, {**body, "worker_id": "w_b"}).status_code == 409


def test_without_the_broker_agents_still_enrol_and_renew(
    api_client: Client, account: Account, valkey: Any
) -> None:
    token = enrollment_token_issue(account=account)
    valkey.kill()
    given = api_client().post(wire.ENROLL, {"token": token})
    assert given.status_code == 200
    body = {"worker_id": given.json()["worker_id"], "secret": given.json()["secret"]}
    assert api_client().post(wire.TOKEN, body).status_code == 200


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("claim", {"kinds": "job"}),
        ("progress", {}),
        ("progress", {"fence": -1, "phase": "x"}),
        ("progress", {"fence": 1, "phase": "x", "bytes_done": 2**70}),
        ("log", {"fence": 1, "offset": 0, "data": "%%%"}),
        ("log", {"fence": 1, "offset": "x", "data": ""}),
        ("finish", {"fence": 1, "outcome": "perhaps"}),
        ("finish", {"fence": 1, "outcome": "failed", "exit_code": 2**40}),
        ("finish", {"fence": 1, "outcome": "failed", "result": [1]}),
        ("finish", []),
    ],
)
def test_a_wrong_body_is_an_error_that_says_so(
    api_client: Client, enrol: Enrol, verb: str, body: Any
) -> None:
    worker = enrol()
    row = ask(worker)
    if verb != "claim":
        speaking(worker).post(path(row, "claim"), {})
    answer = speaking(worker).post(path(row, verb), body)
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid"
    assert answer.json()["message"]


def test_a_draining_worker_leaves_what_it_does_not_take(api_client: Client, enrol: Enrol) -> None:
    worker = enrol()
    row = ask(worker)
    answer = speaking(worker).post(path(row, "claim"), {"kinds": ["snapshot", "restore"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "draining")
