"""Who an agent is, for the API that agents call: an access token bound to one worker and one epoch.

The token is a JWT (HS256) that the gateway can check without a database. Here the worker's row is asked as well,
through the gate that the pool registers, so that revocation and a newer epoch count at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import jwt
from django.conf import settings
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from agent import wire
from core.errors import DomainError
from core.ids import new_id


class TokenExpired(DomainError):
    """The access token is missing, broken or too old: fetch a new one with the worker's secret."""

    status = 401
    code = "token_expired"


@dataclass(frozen=True)
class AgentIdentity:
    """What a valid token says. is_authenticated lets Django REST framework take it for a user."""

    worker_id: str
    epoch: int
    is_authenticated: bool = True

    def __str__(self) -> str:
        return f"{self.worker_id}#{self.epoch}"


Gate = Callable[[AgentIdentity], None]
_gates: list[Gate] = []


def register_gate(gate: Gate) -> None:
    """`gate(identity)` raises StandDown where that worker, in that epoch, has no say any more."""
    if gate not in _gates:
        _gates.append(gate)


def access_token(*, worker_id: str, epoch: int, now: datetime) -> str:
    """A JWT for that worker in that epoch, good for wire.ACCESS_TOKEN_LIFE_S."""
    kid, key = settings.AGENT_KEYS[0]
    claims = {
        "sub": worker_id,
        "epoch": epoch,
        "aud": wire.AUDIENCE,
        "iat": now,
        "exp": now + timedelta(seconds=wire.ACCESS_TOKEN_LIFE_S),
        "jti": new_id("t"),
    }
    return jwt.encode(claims, key, algorithm="HS256", headers={"kid": kid})


def identify(token: str) -> AgentIdentity:
    """The identity that a JWT proves. Raises TokenExpired where it proves none."""
    try:
        kid = jwt.get_unverified_header(token).get("kid")
        key = dict(settings.AGENT_KEYS).get(kid)
        if key is None:
            raise TokenExpired("the access token was signed with a key that is not in use")
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=["HS256"],
            audience=wire.AUDIENCE,
            options={"require": ["sub", "epoch", "aud", "exp", "iat"]},
        )
    except jwt.PyJWTError as error:
        raise TokenExpired(f"the access token is not valid: {error}", hint=f"POST {wire.TOKEN}") from error
    return AgentIdentity(worker_id=str(claims["sub"]), epoch=int(claims["epoch"]))


class AgentAuthentication(BaseAuthentication):
    """Bearer token of an agent; asks every gate. Sets request.user to an AgentIdentity."""

    def authenticate(self, request: Request) -> tuple[AgentIdentity, None]:
        scheme, _, token = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise TokenExpired(
                "this route is for agents and needs their access token", hint=f"POST {wire.TOKEN}"
            )
        identity = identify(token.strip())
        for gate in _gates:
            gate(identity)
        return identity, None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class IsAgent(BasePermission):
    """Only an AgentIdentity passes: a person's token opens no agent route."""

    def has_permission(self, request: Request, view: object) -> bool:
        return isinstance(request.user, AgentIdentity)
