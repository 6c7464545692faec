"""What an agent is given to prove who it is, and how it should run. Both sides import it from agent.wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.wire_fields import WireError, number, text, whole

ACCESS_TOKEN_LIFE_S = 15 * 60


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """What the control plane decides for an agent; may change with every token.

    transport: {"kind": "https"} or {"kind": "redis", "url": …} (a LAN or VPN, see ADR 0001).
    max_session_hours: the agent ends its own session then; None means never.
    dead_man_minutes: how long a rented box that can end itself waits for a control plane that is silent; None means for ever.
    """

    check_interval_s: float = 30.0
    max_session_hours: float | None = None
    transport: Mapping[str, Any] = field(default_factory=lambda: {"kind": "https"})
    dead_man_minutes: float | None = None

    @classmethod
    def from_json(cls, body: object) -> AgentSettings:
        if not isinstance(body, dict):
            return cls()
        transport = body.get("transport")
        return cls(
            check_interval_s=number(body, "check_interval_s", low=0.05) or 30.0,
            max_session_hours=number(body, "max_session_hours", low=0),
            transport=transport if isinstance(transport, dict) else {"kind": "https"},
            dead_man_minutes=number(body, "dead_man_minutes", low=0),
        )


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Answer to enroll and to token. `secret` replaces the one that was sent; the old one is good until
    the new one has been used, so that a lost answer locks nobody out."""

    worker_id: str
    epoch: int
    secret: str
    access_token: str
    access_expires_in_s: float
    instance_id: str | None = None
    settings: AgentSettings = field(default_factory=AgentSettings)

    @classmethod
    def from_json(cls, body: object) -> Credentials:
        if not isinstance(body, dict):
            raise WireError("credentials are a JSON object")
        return cls(
            worker_id=text(body, "worker_id", required=True) or "",
            epoch=whole(body, "epoch", required=True) or 0,
            secret=text(body, "secret", required=True) or "",
            access_token=text(body, "access_token", required=True, at_most=8192) or "",
            access_expires_in_s=number(body, "access_expires_in_s", low=1) or ACCESS_TOKEN_LIFE_S,
            instance_id=text(body, "instance_id"),
            settings=AgentSettings.from_json(body.get("settings")),
        )


@dataclass(frozen=True, kw_only=True)
class TokenPost:
    """Trades the worker's secret for a fresh access token and the next secret."""

    worker_id: str
    secret: str
