"""Whatever is sent to the routes of instances and money is refused or taken, never a fault of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from rest_framework.test import APIClient

from hibernation.models import Instance
from tests.hibernation.rows import asleep_of, instance_of

pytestmark = pytest.mark.usefixtures("db", "valkey")

VALUES: list[Any] = [
    None,
    "",
    "\x00",
    "\ud800",
    "nan",
    "²",
    -1,
    2**70,
    10**400,
    1e308,
    [],
    [None],
    {"\x00": "\ud800"},
    True,
    "x" * 100_000,
]
BODIES: list[Any] = [[], "x", 1, None, [[]], {"auto_hibernation": []}]
PLACES = ["%00", "%ff", "x" * 300, "..%2f", "%C2%B2", "9" * 4400, "-1", "1e999"]
POLICY = {
    "enabled": True,
    "pause_after_idle_minutes": 3,
    "check_interval_seconds": 30,
    "wake_method": "manual",
    "schedule": None,
    "minimum_awake_minutes": 0,
    "signals": None,
    "verify_share": 1,
}
TIMES = {"wake_time": "09:00", "sleep_time": "18:00", "timezone": "UTC", "weekdays": [0]}


def each(**usual: Any) -> Iterator[dict[str, Any]]:
    """The usual body with each field replaced by each value."""
    for name in usual:
        for value in VALUES:
            yield {**usual, name: value}


def check(client: APIClient, method: str, path: str, body: Any = None) -> None:
    client.raise_request_exception = False
    sent = {"data": json.dumps(body), "content_type": "application/json"} if method in ("post", "put") else {}
    answer = getattr(client, method)(path, **sent)
    assert answer.status_code < 500, (method, path[:200], json.dumps(body)[:200])
    if answer.status_code >= 400:
        assert {"code", "message", "hint"} <= set(answer.json()), path[:200]


@pytest.mark.slow
def test_what_is_asked_of_an_instance(api: APIClient, alice: Any) -> None:
    awake, asleep = instance_of(alice), asleep_of(alice, name="asleep")
    at = f"/api/instances/{awake.pk}"
    for body in [*each(minutes=1), *BODIES]:
        check(api, "post", f"{at}/keep-awake", body)
    for body in [*each(gpu_type="x", region="x"), *BODIES]:
        Instance.objects.filter(pk=asleep.pk).update(wake_asked_at=None)
        check(api, "post", f"/api/instances/{asleep.pk}/wake", body)
    for body in BODIES:
        check(api, "post", f"{at}/hibernate", body)
        check(api, "post", "/api/instances", body)
    for body in each(name="x", account=awake.account_id, gpu_type="", region="", price_cap_usd_per_h="1",
                     disk_bytes=2**30, on_wake="", config={}):  # fmt: skip
        check(api, "post", "/api/instances", body)


@pytest.mark.slow
def test_what_is_said_of_its_sleep(api: APIClient, alice: Any) -> None:
    at = f"/api/instances/{instance_of(alice).pk}"
    for inner in each(**POLICY):
        check(api, "put", f"{at}/config", {"auto_hibernation": inner})
    for inner in each(**TIMES):
        check(api, "put", f"{at}/schedule", inner)
        check(api, "put", f"{at}/config", {"auto_hibernation": {"schedule": inner}})
    for inner in each(vram_percent=1, ssh_sessions=1):
        check(api, "put", f"{at}/config", {"auto_hibernation": {"signals": inner}})
    for body in [*BODIES, *VALUES]:
        check(api, "put", f"{at}/config", body)
        check(api, "put", f"{at}/schedule", body)
    check(api, "get", at)


@pytest.mark.slow
def test_what_is_looked_for(api: APIClient, alice: Any) -> None:
    at = f"/api/instances/{instance_of(alice).pk}"
    for place in PLACES:
        for path in ("", "/events", "/samples", "/chains", "/why", "/config", "/savings"):
            check(api, "get", f"/api/instances/{place}{path}")
            check(api, "get", f"{at}{path}?status={place}&name={place}&limit={place}&offset={place}")
        check(api, "get", f"{at}/events?after={place}")
        check(api, "get", f"/api/instances?status={place}&name={place}&limit={place}&offset={place}")
        check(api, "get", f"/api/savings?start={place}&end={place}")
        check(api, "delete", f"/api/instances/{place}")
        check(api, "delete", f"{at}?discard={place}")


@pytest.mark.parametrize("place", ["0001-01-01", "0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59"])
def test_a_period_at_the_ends_of_the_calendar(api: APIClient, alice: Any, place: str) -> None:
    at = f"/api/instances/{instance_of(alice).pk}/savings"
    for query in (
        f"start={place}",
        f"end={place}",
        f"start={place}&end=9999-12-31",
        f"start=0001-01-01&end={place}",
    ):
        check(api, "get", f"{at}?{query}")
        check(api, "get", f"/api/savings?{query}")


def test_a_body_that_is_no_json_or_nests_too_deep(api: APIClient, alice: Any) -> None:
    api.raise_request_exception = False
    at = f"/api/instances/{instance_of(alice).pk}"
    for raw in (
        b"",
        b"{",
        b"\xff",
        b"NaN",
        b'{"minutes": NaN}',
        b'{"minutes": 1e999}',
        b"[" * 100_000,
        b'{"minutes":' * 9_999,
    ):
        for path in ("keep-awake", "config", "schedule"):
            method = api.post if path == "keep-awake" else api.put
            answer = method(f"{at}/{path}", raw, content_type="application/json")
            assert answer.status_code < 500, raw[:20]
