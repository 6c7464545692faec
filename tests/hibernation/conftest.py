"""One local host for the run, at the place where the settings expect it; a fresh world around it for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

from tests.hibernation.providers.hosts import LocalHost
from tests.hibernation.world import World, started_host, the_world


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
