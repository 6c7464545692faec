"""Which providers can be rented from. The only place that knows their names; one more is one more line here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from core.errors import Invalid
from hibernation.providers.base import Provider, ProviderRefused

_FACTORIES = {
    "local": "hibernation.providers.local:local_provider",
    "vast": "hibernation.providers.vast:vast_provider",
}
"""Account kind -> "module:function". A module is imported when its kind is first asked for."""


@dataclass(frozen=True, kw_only=True)
class ProviderAccount:
    """Whose boxes: what the provider lists and destroys is this account's and nobody else's.

    credentials: the account's decrypted JSON, {} where none are needed. id: ours, for a provider without credentials.
    """

    id: str
    kind: str
    credentials: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class AgentWheel:
    """The agent that boxes install: the control plane serves it at `wire.WHEEL_INDEX` under this name."""

    name: str
    sha256: str


def no_wheel() -> AgentWheel:
    """Where nobody has said how the agent is built."""
    raise Invalid("this installation serves no agent for boxes to install")


@dataclass(frozen=True, kw_only=True)
class ProviderSettings:
    """What the installation, rather than an account, decides for its providers. data_dir: where it keeps its files.

    options: account kind -> what its provider alone understands. agent_wheel: asked only where a box must fetch the
    agent; raises Busy where it cannot be had just now.
    """

    data_dir: Path
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    agent_wheel: Callable[[], AgentWheel] = no_wheel


ProviderFactory = Callable[[ProviderAccount, ProviderSettings], Provider]
"""Raises ProviderRefused where the credentials cannot do."""


def provider_kinds() -> frozenset[str]:
    """The account kinds that boxes can be rented from; the others are only enrolled."""
    return frozenset(_FACTORIES)


def provider_for(
    kind: str, credentials: str | Mapping[str, Any], settings: ProviderSettings, *, account_id: str = ""
) -> Provider:
    """The provider for one account. credentials: the account's decrypted JSON text (or the object in it), "" for none.

    Cheap and without a call to the provider: make one wherever one is needed. Raises Invalid where boxes of this
    kind cannot be rented, ProviderRefused where the credentials are not even readable.
    """
    if kind not in _FACTORIES:
        raise Invalid(
            f"boxes cannot be rented from an account of kind {kind!r}",
            hint=f"rent with one of: {', '.join(sorted(_FACTORIES))}",
        )
    module, _, function = _FACTORIES[kind].partition(":")
    factory: ProviderFactory = getattr(import_module(module), function)
    account = ProviderAccount(id=account_id, kind=kind, credentials=_credentials(credentials, kind))
    return factory(account, settings)


def _credentials(given: str | Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    if not isinstance(given, str):
        return given
    try:
        found = json.loads(given or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ProviderRefused(
            f"the credentials of the {kind} account are not a JSON object", hint="enter them again"
        )
    return found
