"""What every route shares: who may ask, and how a refusal looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.test import APIClient

from core.api import ErrorSerializer, exception_handler
from core.errors import Busy, DomainError, Forbidden, Invalid, NotFound, StandDown, TooSoon
from core.models import ApiToken

Client = Callable[..., APIClient]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Invalid("x", hint="y"), 400, "invalid"),
        (Forbidden("x"), 403, "forbidden"),
        (NotFound("x"), 404, "not_found"),
        (StandDown("x"), 409, "stand_down"),
        (TooSoon("x", retry_after_s=12.2), 429, "too_soon"),
        (Busy("x", retry_after_s=0.1), 503, "busy"),
        (DomainError("x", code="own"), 409, "own"),
    ],
)
def test_a_refusal_is_code_message_and_hint(error: DomainError, status: int, code: str) -> None:
    answer = exception_handler(error, {})
    assert answer is not None
    assert (answer.status_code, answer.data["code"], answer.data["message"]) == (status, code, "x")
    assert set(ErrorSerializer().fields) <= set(answer.data)


def test_a_wait_is_rounded_up_to_whole_seconds() -> None:
    for error, header in ((TooSoon("x", retry_after_s=12.2), "13"), (Busy("x", retry_after_s=0.1), "1")):
        answer = exception_handler(error, {})
        assert answer is not None and answer["Retry-After"] == header


def test_what_is_not_a_refusal_is_a_fault_of_ours() -> None:
    assert exception_handler(ZeroDivisionError(), {}) is None


def test_a_wrong_body_names_each_field(api_client: Client, alice: User) -> None:
    body = api_client(alice).post("/api/jobs", {"command": "python", "grace_s": "x"}).json()
    assert body["code"] == "invalid"
    assert set(body["fields"]) == {"command", "grace_s"}
    assert "command: " in body["message"] and "grace_s: A valid number" in body["message"]


def test_a_token_carries_its_scopes(api_client: Client, alice: User) -> None:
    body = {"command": ["true"]}
    assert api_client(alice, "read").get("/api/jobs").status_code == 200
    refused = api_client(alice, "read").post("/api/jobs", body)
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    assert api_client(alice, "operate").get("/api/jobs").status_code == 403
    assert api_client(alice, "read", "operate").post("/api/jobs", body).status_code == 201
    assert api_client(alice, "admin").post("/api/jobs", body).status_code == 201


def test_nobody_and_a_dead_token_are_told_how_to_ask(api_client: Client, alice: User) -> None:
    client = api_client(alice)
    ApiToken.objects.update(revoked_at=timezone.now())
    for one in (api_client(), client):
        answer = one.get("/api/jobs")
        assert answer.status_code == 401
        assert answer["WWW-Authenticate"] == "Bearer"
        assert "Bearer dm_" in answer.json()["hint"]


def test_a_browsers_session_is_a_person_too(client: Any, alice: User, valkey: Any) -> None:
    client.force_login(alice)
    assert client.get("/api/jobs").status_code == 200


def test_too_many_requests_say_when_to_come_back(
    api_client: Client, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.throttles import ScopedThrottle

    monkeypatch.setattr(ScopedThrottle, "THROTTLE_RATES", {"api": "2/min"})
    client = api_client(alice)
    codes = [client.get("/api/jobs").status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    answer = client.get("/api/jobs")
    assert int(answer["Retry-After"]) > 0
    assert answer.json()["code"] == "throttled"
