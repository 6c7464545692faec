"""API tokens of people, and access tokens of agents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone

from agent import wire
from core.agents import AgentIdentity, TokenExpired, access_token, identify
from core.errors import Invalid
from core.models import ApiToken
from core.tokens import token_find, token_issue, token_revoke

NOON = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)


def test_a_token_is_found_by_its_text_which_is_not_kept(alice: User) -> None:
    row, plain = token_issue(user=alice, name="ci")
    assert plain.startswith("dm_") and row.prefix == plain[:11]
    assert plain not in str(ApiToken.objects.filter(pk=row.pk).values().get())
    assert token_find(plain, now=timezone.now()) == row
    assert token_find(plain + "x", now=timezone.now()) is None


def test_an_expired_revoked_or_disabled_token_opens_nothing(alice: User) -> None:
    now = timezone.now()
    row, plain = token_issue(user=alice, name="ci", expires_at=now + timedelta(days=1))
    assert token_find(plain, now=now + timedelta(days=2)) is None
    alice.is_active = False
    alice.save()
    assert token_find(plain, now=now) is None
    alice.is_active = True
    alice.save()
    assert token_find(plain, now=now) is not None
    token_revoke(row, now=now)
    token_revoke(row, now=now + timedelta(hours=1))
    assert token_find(plain, now=now) is None
    row.refresh_from_db()
    assert row.revoked_at == now


def test_scopes_are_those_that_exist(alice: User) -> None:
    with pytest.raises(Invalid, match="root"):
        token_issue(user=alice, name="x", scopes=["read", "root"])
    with pytest.raises(Invalid, match="none given"):
        token_issue(user=alice, name="x", scopes=[])


def test_the_last_use_is_noted_at_most_once_a_minute(alice: User) -> None:
    row, plain = token_issue(user=alice, name="ci")
    now = timezone.now()
    for later_s, noted_s in ((0, 0), (30, 0), (61, 61)):
        token_find(plain, now=now + timedelta(seconds=later_s))
        row.refresh_from_db()
        assert row.last_used_at == now + timedelta(seconds=noted_s)


def test_the_schema_refuses_a_token_that_expires_before_its_birth(alice: User) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        token_issue(user=alice, name="ci", expires_at=timezone.now() - timedelta(days=1))


# -- agents -------------------------------------------------------------------------------------------


def claims(**changed: object) -> dict[str, object]:
    now = timezone.now()
    return {
        "sub": "w_1",
        "epoch": 2,
        "aud": wire.AUDIENCE,
        "iat": now,
        "exp": now + timedelta(minutes=5),
        **changed,
    }


def signed(body: dict[str, object], *, kid: str | None = None, key: bytes | str | None = None) -> str:
    own_kid, own_key = django_settings.AGENT_KEYS[0]
    return jwt.encode(body, key or own_key, algorithm="HS256", headers={"kid": kid or own_kid})


def test_an_agents_token_proves_worker_and_epoch() -> None:
    token = access_token(worker_id="w_1", epoch=2, now=timezone.now())
    assert identify(token) == AgentIdentity(worker_id="w_1", epoch=2)
    assert str(identify(token)) == "w_1#2"


def test_an_agents_token_lives_for_a_quarter_of_an_hour() -> None:
    with pytest.raises(TokenExpired):
        identify(access_token(worker_id="w_1", epoch=2, now=timezone.now() - timedelta(minutes=16)))


@pytest.mark.parametrize("missing", ["sub", "epoch", "aud", "exp", "iat"])
def test_an_agents_token_must_say_everything(missing: str) -> None:
    body = claims()
    body.pop(missing)
    with pytest.raises(TokenExpired):
        identify(signed(body))


def test_forged_agents_tokens_prove_nothing() -> None:
    for token in (
        signed(claims(), key="k" * 32),
        signed(claims(), kid="unknown"),
        signed(claims(aud="somebody else")),
        jwt.encode(claims(), None, algorithm="none", headers={"kid": django_settings.AGENT_KEYS[0][0]}),
        "nonsense",
        "",
    ):
        with pytest.raises(TokenExpired):
            identify(token)


def test_agents_keys_rotate(settings: Any) -> None:
    token = access_token(worker_id="w_1", epoch=2, now=timezone.now())
    settings.AGENT_KEYS = [("new", b"n" * 32), *settings.AGENT_KEYS]
    assert identify(token).worker_id == "w_1"
    fresh = access_token(worker_id="w_1", epoch=2, now=timezone.now())
    assert jwt.get_unverified_header(fresh)["kid"] == "new"
    settings.AGENT_KEYS = settings.AGENT_KEYS[:1]
    with pytest.raises(TokenExpired, match="not in use"):
        identify(token)
