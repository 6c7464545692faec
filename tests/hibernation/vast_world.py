"""The small world on vast.ai's simulator: the same rows, chains and agents, another market."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from hibernation.providers import vast, vast_pace
from hibernation.providers.registry import no_wheel
from hibernation.services.reconcile import account_reconcile
from pool.models import Account
from snapshots.services.store import store
from tests.hibernation.providers.hosts import eventually
from tests.hibernation.rows import account_of, person
from tests.hibernation.world import World
from tests.simulators.vast.faults import FaultKind
from tests.simulators.vast.running import Simulator


class VastWorld(World):
    """Every account of this world has the one key; nobody else rents with it."""

    def __init__(self, simulator: Simulator) -> None:
        super().__init__(simulator)
        self.simulator = simulator
        self.key = f"sim-{secrets.token_hex(6)}"

    def account(self, owner: Any = None, **columns: Any) -> Account:
        account = account_of(owner or person(), kind=Account.Kind.VAST)
        account.credentials = json.dumps({"api_key": self.key})
        for name, value in columns.items():
            setattr(account, name, value)
        account.save()
        return account

    def fault(self, kind: FaultKind, **how: Any) -> None:
        self.simulator.fault(kind, **how)

    def faults_clear(self) -> None:
        self.simulator.faults_clear()

    def rented(self) -> list[dict[str, Any]]:
        rows = self.simulator.contracts(tenant=self.key)
        return [{**row, "environment": row["env"]} for row in rows]

    def ever_rented(self) -> list[dict[str, Any]]:
        """Those that are gone too, the oldest first."""
        return self.simulator.contracts(tenant=self.key, gone=True)

    def calls(self, endpoint: str) -> list[dict[str, Any]]:
        calls = self.simulator.books()["calls"]
        return [call for call in calls if call.get("tenant") == self.key and call["endpoint"] == endpoint]

    def until_gone(self, ref: str) -> None:
        eventually(lambda: not self.simulator.contract(ref)["lives"])

    def _in_motion(self, book: dict[str, Any]) -> bool:
        return bool(book["plan"])

    def reconcile(self, account: Account | None = None, *, times: int = 1) -> None:
        for _ in range(times):
            self.settled()
            for row in [account] if account else Account.objects.filter(kind=Account.Kind.VAST):
                account_reconcile(row, now=self.now())
            self.forward(15)

    def empty(self) -> None:
        self.faults_clear()
        provider = vast.VastProvider(self.key, url=self.simulator.url, image="", agent_wheel=no_wheel)
        for book in self.rented():
            provider.destroy(book["ref"])


def the_vast_world(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Iterator[VastWorld]:
    """Without vast.ai's rate limits and the memory for offers: both have tests of their own."""
    world = VastWorld(simulator)
    monkeypatch.setattr(timezone, "now", world.now)
    monkeypatch.setattr(settings, "SNAPSHOT_STORE", str(folder / "store"))
    monkeypatch.setattr(settings, "PROVIDER_OPTIONS", {"vast": {"url": simulator.url}})
    monkeypatch.setattr(vast_pace, "LIMITS", {})
    monkeypatch.setattr(vast, "OFFERS_LIFE_S", 0.0)
    store.cache_clear()
    yield world
    world.close()
    store.cache_clear()
