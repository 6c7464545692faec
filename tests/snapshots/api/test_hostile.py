"""Whatever is sent to the routes of snapshots is refused or taken, never a fault of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from agent import wire
from core.agents import access_token
from pool.models import Account, Worker
from pool.states import WorkerState
from tests.snapshots.rows import begun, facts, person, root_wish, taken

pytestmark = pytest.mark.usefixtures("db", "valkey", "store_folder")
VALUES: list[Any] = [
    None,
    "",
    "\x00",
    "\ud800",
    "nan",
    -1,
    2**70,
    10**400,
    [],
    [None],
    {"\x00": "\ud800"},
    True,
]
BODIES: list[Any] = [[], "x", 1, None, [[]]]
PLACES = ["%00", "%ff", "x" * 300, "..%2f", "%C2%B2", "9" * 4400, "-1", "0"]


def check(client: APIClient, method: str, path: str, body: Any = None) -> None:
    client.raise_request_exception = False
    sent = {"data": json.dumps(body), "content_type": "application/json"} if method == "post" else {}
    answer = getattr(client, method)(path, **sent)
    assert answer.status_code < 500, (method, path[:200], json.dumps(body)[:200])
    if answer.status_code >= 400:
        assert {"code", "message", "hint"} <= set(answer.json()), path[:200]


def test_people_may_ask_what_they_like(api_client: Callable[..., APIClient], workspace: Path) -> None:
    alice = person()
    api = api_client(alice)
    row = taken(begun(alice), workspace)
    for place in PLACES:
        check(api, "get", f"/api/snapshots?workspace_ref={place}&state={place}&limit={place}&offset={place}")
        check(api, "get", f"/api/snapshots/{row.pk}/files?prefix={place}&after={place}&limit={place}")
        check(api, "get", f"/api/snapshots/{row.pk}/files/{place}")
        for path in ("", "/files", "/files/x"):
            check(api, "get", f"/api/snapshots/{place}{path}")
        check(api, "delete", f"/api/snapshots/{place}")


@pytest.mark.slow
def test_machines_may_send_what_they_like() -> None:
    alice = person()
    worker = Worker.objects.create(
        account=Account.objects.create(owner=alice, kind="local", label="rack"),
        name="w", epoch=3, secret_sha256="x", state=WorkerState.ONLINE,
    )  # fmt: skip
    agent = APIClient()
    token = access_token(worker_id=worker.pk, epoch=3, now=timezone.now())
    agent.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    row = begun(alice, worker=worker.pk)
    put = wire.to_json(root_wish(row))
    for verb in ("plan", "commit", "restore-plan"):
        for place in PLACES:
            check(agent, "post", wire.snapshot_path(place, verb), {})
        for body in BODIES:
            check(agent, "post", wire.snapshot_path(row.pk, verb), body)
    for value in VALUES:
        for name in ("fence", "put", "get"):
            check(agent, "post", wire.snapshot_path(row.pk, "plan"), {name: value})
        for name in put:
            check(agent, "post", wire.snapshot_path(row.pk, "plan"), {"put": [{**put, name: value}]})
        check(agent, "post", wire.snapshot_path(row.pk, "plan"), {"get": [value]})
        for name in facts(row):
            check(agent, "post", wire.snapshot_path(row.pk, "commit"), {**facts(row), name: value})
        check(agent, "post", wire.snapshot_path(row.pk, "commit"), {**facts(row), "warnings": [value]})
