"""What the provider contract needs of a provider under test: rooms of its own, and a way to make it go wrong.

One class for each provider; the suite in tests/contracts/test_provider.py runs on all of them.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Protocol

from hibernation.providers.base import BoxSpec, Provider
from hibernation.providers.local import LocalProvider
from hibernation.providers.local_faults import K, fault_add, faults_clear
from hibernation.providers.registry import AgentWheel
from hibernation.providers.vast import VastProvider
from tests.hibernation.providers.hosts import LocalHost, box_spec
from tests.simulators.vast.faults import FaultKind as V
from tests.simulators.vast.running import Simulator

WHEEL = AgentWheel(name="dormouse_agent-0.1.0-py3-none-any.whl", sha256=64 * "0")

_tenants = itertools.count(1)


class Market(Protocol):
    """`provider` is a fresh account without boxes, `stranger` another one; both rent from the same machines."""

    provider: Provider
    stranger: Provider
    gpu_type: str
    region: str

    def spec(self, label: str) -> BoxSpec: ...
    def next_create_is_busy(self, *, retry_after_s: float) -> None: ...
    def next_create_is_refused(self) -> None: ...
    def next_create_breaks_off(self, *, rents: bool) -> None: ...
    def next_listing_is_short(self) -> None: ...
    def next_listing_lacks(self, label: str) -> None: ...
    def next_destroy_does_nothing(self) -> None: ...
    def out_of_reach(self) -> Provider: ...
    def clean_up(self) -> None: ...


class LocalMarket:
    """The local provider, on a host that its tests share; each test has an account of its own."""

    gpu_type = "rtx_4090"
    region = "local-us"

    def __init__(self, host: LocalHost) -> None:
        self.host = host
        self.provider, self.stranger = (LocalProvider(host.folder, tenant=f"a{next(_tenants)}") for _ in "ab")

    def spec(self, label: str) -> BoxSpec:
        return box_spec(label)

    def next_create_is_busy(self, *, retry_after_s: float) -> None:
        fault_add(self.host.folder, K.CREATE_BUSY, seconds=retry_after_s)

    def next_create_is_refused(self) -> None:
        fault_add(self.host.folder, K.CREATE_REFUSED)

    def next_create_breaks_off(self, *, rents: bool) -> None:
        fault_add(self.host.folder, K.CREATE_UNKNOWN if rents else K.CREATE_LOST)

    def next_listing_is_short(self) -> None:
        fault_add(self.host.folder, K.LISTING_INCOMPLETE)

    def next_listing_lacks(self, label: str) -> None:
        fault_add(self.host.folder, K.BOX_HIDDEN, label=label)

    def next_destroy_does_nothing(self) -> None:
        fault_add(self.host.folder, K.DESTROY_IGNORED)

    def out_of_reach(self) -> Provider:
        return LocalProvider(Path(f"{self.host.folder}-never-was"))

    def clean_up(self) -> None:
        faults_clear(self.host.folder)
        for account in (self.provider, self.stranger):
            for box in account.listing():
                account.destroy(box.ref)


class VastMarket:
    """vast.ai, on a simulator that its tests share; each test has an account of its own."""

    gpu_type = "rtx_4090"
    region = "SE"

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.keys = [f"sim-{next(_tenants)}" for _ in "ab"]
        self.provider, self.stranger = (vast_at(simulator.url, key) for key in self.keys)

    def spec(self, label: str) -> BoxSpec:
        return box_spec(label)

    def next_create_is_busy(self, *, retry_after_s: float) -> None:
        self.simulator.fault(V.RATE_LIMITED, endpoint="create", seconds=retry_after_s)

    def next_create_is_refused(self) -> None:
        self.simulator.fault(V.NO_CREDIT)

    def next_create_breaks_off(self, *, rents: bool) -> None:
        if rents:
            self.simulator.fault(V.CREATE_TIMES_OUT)
        else:
            self.simulator.fault(V.SILENCE, endpoint="create")

    def next_listing_is_short(self) -> None:
        self.simulator.fault(V.LISTING_SHORT)

    def next_listing_lacks(self, label: str) -> None:
        self.simulator.fault(V.LISTING_LACKS, label=label)

    def next_destroy_does_nothing(self) -> None:
        self.simulator.fault(V.DESTROY_IGNORED)

    def out_of_reach(self) -> Provider:
        return vast_at("http://127.0.0.1:1", "sim-nobody")

    def clean_up(self) -> None:
        self.simulator.faults_clear()
        for account in (self.provider, self.stranger):
            for box in account.listing():
                account.destroy(box.ref)


def vast_at(url: str, api_key: str) -> VastProvider:
    return VastProvider(api_key, url=url, image="image:1", agent_wheel=lambda: WHEEL)
