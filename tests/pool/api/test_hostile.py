"""Whatever is sent to the pool's routes is refused or taken, never a fault of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator
from rest_framework.test import APIClient

from agent import wire
from core.agents import AgentIdentity, access_token
from core.throttles import ScopedThrottle
from pool.models import Account, Worker
from pool.services.dispatches import dispatch_ask
from pool.services.enrollment import enrollment_token_issue
from pool.services.reports import dispatch_claim

VALUES: list[Any] = [
    None,
    "",
    "\x00",
    "\ud800",
    "é",
    "nan",
    -1,
    2**70,
    1e308,
    [],
    [None],
    {"\x00": "\ud800"},
    True,
]
BODIES: list[Any] = [[], "x", 1, None, [[]]]
PLACES = ["%00", "%ff", "x" * 300, "..%2f"]


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScopedThrottle, "allow_request", lambda *_: True)


def each(**usual: Any) -> Iterator[dict[str, Any]]:
    """The usual body with each field replaced by each value."""
    for name in usual:
        for value in VALUES:
            yield {**usual, name: value}


def check(client: APIClient, method: str, path: str, body: Any = None) -> None:
    client.raise_request_exception = False
    sent = {} if method == "get" else {"data": json.dumps(body), "content_type": "application/json"}
    answer = getattr(client, method)(path, **sent)
    assert answer.status_code < 500, (method, path, json.dumps(body))
    if answer.status_code >= 400:
        assert {"code", "message", "hint"} <= set(answer.json()), path


@pytest.mark.slow
def test_people_may_send_what_they_like(
    api_client: Callable[..., APIClient],
    ops: User,
    account: Account,
    enrol: Callable[..., Worker],
    unlimited: None,
) -> None:
    client = api_client(ops, "admin")
    worker = enrol()
    for body in each(command=["true"], env={}, timeout_s=1, priority=0, instance="", provider="", name="x"):
        check(client, "post", "/api/jobs", body)
    usual = {"command": ["true"]}
    for body in each(
        workdir="a",
        files=[],
        artifacts=["*"],
        retry={},
        after=[],
        after_policy="ended",
        count=1,
    ):
        check(client, "post", "/api/jobs", {**usual, **body})
    for file in each(path="a", mode="644", text="x", base64="", **{"from": {"job": "j_1", "artifact": "a"}}):
        check(client, "post", "/api/jobs", {**usual, "files": [file]})
        check(client, "post", "/api/jobs", {**usual, "files": [{"path": "a", "from": file}]})
    for retry in each(exit_codes="any", max_retries=1, backoff_s=1, backoff_factor=1, max_backoff_s=1):
        check(client, "post", "/api/jobs", {**usual, "retry": retry})
    for value in VALUES:
        for name in ("files", "artifacts", "after"):
            check(client, "post", "/api/jobs", {**usual, name: [value]})
    for body in each(
        kind="vast", label="x", credentials={}, reset_zone="UTC", reset_hour=0, weekly_limit_h=1
    ):
        check(client, "post", "/api/accounts", body)
        check(client, "patch", f"/api/accounts/{account.pk}", body)
    for body in each(account=account.pk, uses=1, life_minutes=60):
        check(client, "post", "/api/enrollment-tokens", body)
    for body in each(note="x"):
        check(client, "post", f"/api/workers/{worker.pk}/drain", body)
    for body in BODIES:
        for path in ("jobs", "accounts", "enrollment-tokens"):
            check(client, "post", f"/api/{path}", body)
    job = client.post("/api/jobs", usual).json()["id"]
    for place in PLACES:
        check(client, "get", f"/api/jobs/{job}/artifacts/{place}")
        check(client, "get", f"/api/jobs/{place}/artifacts/x")
        check(client, "get", f"/api/jobs/{job}/artifacts?attempt={place}&limit={place}&offset={place}")
        check(client, "get", f"/api/jobs/{job}/logs?attempt={place}&offset={place}")
        check(client, "get", f"/api/jobs?array={place}&owner={place}")
        check(client, "post", f"/api/job-arrays/{place}/cancel")
    for path in ("jobs", "workers", "accounts", "job-arrays"):
        for place in PLACES:
            check(client, "get", f"/api/{path}/{place}")
            check(client, "get", f"/api/{path}?status={place}&name={place}&limit={place}&offset={place}")


@pytest.mark.slow
def test_machines_may_send_what_they_like(
    api_client: Callable[..., APIClient], account: Account, enrol: Callable[..., Worker], unlimited: None
) -> None:
    worker = enrol()
    client = APIClient()
    token = access_token(worker_id=worker.pk, epoch=1, now=timezone.now())
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    held = dispatch_ask(worker=worker, kind="command", ref="", key="k", work={})
    dispatch_claim(identity=AgentIdentity(worker_id=worker.pk, epoch=1), dispatch_id=held.pk)
    piece = {"key": "j/a/b/c", "length": 1, "sha256": "0" * 64}
    file = {"path": "a", "mode": 420, "length": 1, "sha256": "0" * 64, "pieces": [piece]}
    reports: dict[str, dict[str, Any]] = {
        "files": {"fence": 1},
        "objects": {"fence": 1, "put": [piece], "get": ["x"]},
        "artifacts": {"fence": 1, "artifacts": [file]},
        "claim": {"kinds": None},
        "progress": {"fence": 1, "phase": "x", "bytes_done": 1},
        "log": {"fence": 1, "offset": 0, "data": "", "total": 1},
        "finish": {
            "fence": 9,
            "outcome": "failed",
            "exit_code": 1,
            "timed_out_s": 1,
            "reason": "x",
            "result": {},
        },
    }
    for verb, usual in reports.items():
        for body in [*each(**usual), *BODIES]:
            check(client, "post", wire.dispatch_path(held.pk, verb), body)
        check(client, "post", wire.dispatch_path("d_%00", verb), usual)
    for body in each(**piece):
        check(client, "post", wire.dispatch_path(held.pk, "objects"), {"fence": 1, "put": [body]})
    for body in each(**file):
        check(client, "post", wire.dispatch_path(held.pk, "artifacts"), {"fence": 1, "artifacts": [body]})
    for body in each(name="x", gpus=[], request_id="r", platform="x", session_runtime_hours=1):
        check(client, "post", wire.ENROLL, {"token": enrollment_token_issue(account=account), **body})
    for body in [*each(worker_id=worker.pk, secret="x"), *BODIES]:
        check(client, "post", wire.TOKEN, body)


def test_what_is_stored_of_it_can_be_shown(
    api_client: Callable[..., APIClient], ops: User, enrol: Callable[..., Worker]
) -> None:
    worker = enrol()
    held = dispatch_ask(worker=worker, kind="command", ref="", key="k", work={})
    identity = AgentIdentity(worker_id=worker.pk, epoch=1)
    dispatch_claim(identity=identity, dispatch_id=held.pk)
    client = APIClient()
    token = access_token(worker_id=worker.pk, epoch=1, now=timezone.now())
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    body = {"fence": 1, "outcome": "failed", "reason": "\x00\ud800", "result": {"\x00": ["\ud800", 2**80]}}
    answer = client.post(
        wire.dispatch_path(held.pk, "finish"), json.dumps(body), content_type="application/json"
    )
    assert answer.status_code == 200
    held.refresh_from_db()
    assert held.reason == "the worker reported: ?"
    assert api_client(ops).get("/api/workers").status_code == 200


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ('{"seconds": 1e999}', 200),
        ('{"a": ' + "[" * 20 + "]" * 20 + "}", 200),
        ('{"a": ' + "[" * 450 + "]" * 450 + "}", 400),
        ('{"a": ' * 300 + "1" + "}" * 300, 400),
    ],
    ids=["infinite", "nested", "nested lists", "nested objects"],
)
def test_a_result_is_stored_or_refused(enrol: Callable[..., Worker], result: str, status: int) -> None:
    worker = enrol()
    held = dispatch_ask(worker=worker, kind="command", ref="", key="k", work={})
    dispatch_claim(identity=AgentIdentity(worker_id=worker.pk, epoch=1), dispatch_id=held.pk)
    client = APIClient(raise_request_exception=False)
    token = access_token(worker_id=worker.pk, epoch=1, now=timezone.now())
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    body = f'{{"fence": 1, "outcome": "succeeded", "result": {result}}}'
    answer = client.post(wire.dispatch_path(held.pk, "finish"), body, content_type="application/json")
    assert answer.status_code == status, answer.content


def test_the_gateways_routes_are_in_the_document() -> None:
    paths = SchemaGenerator().get_schema(public=True)["paths"]
    assert {wire.STATUS, wire.QUEUE, wire.ENROLL, wire.TOKEN} <= set(paths)
