"""One local host for the run, at the place where the settings expect it; a fresh world around it for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

from tests.hibernation.providers.hosts import LocalHost
from tests.hibernation.vast_world import VastWorld, the_vast_world
from tests.hibernation.world import World, started_host, the_world
from tests.simulators.vast.running import Simulator


@pytest.fixture(scope="session")
def local_host() -> Iterator[LocalHost]:
    settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
    host = started_host()
    yield host
    host.clean_up()


@pytest.fixture
def world(
    transactional_db: None,
    valkey: object,
    local_host: LocalHost,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[World]:
    yield from the_world(local_host, monkeypatch, tmp_path)


@pytest.fixture(scope="session")
def vast_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """Boxes without processes: the world's own agents live in their folders."""
    simulator = Simulator(tmp_path_factory.mktemp("vast") / "simulator").start()
    yield simulator
    simulator.stop()


@pytest.fixture
def vast_world(
    transactional_db: None,
    valkey: object,
    vast_simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[VastWorld]:
    yield from the_vast_world(vast_simulator, monkeypatch, tmp_path)
