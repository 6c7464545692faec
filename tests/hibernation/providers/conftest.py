from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hibernation.providers.local_faults import faults_clear
from hibernation.providers.local_process import marked
from tests.hibernation.providers.hosts import STAND_IN, LocalHost, eventually

HostMaker = Callable[..., LocalHost]


@pytest.fixture
def make_host(tmp_path: Path) -> Iterator[HostMaker]:
    """Makes local hosts that are not started yet; at the end nothing of any of them is left running."""
    made: list[LocalHost] = []

    def make(folder: Path | None = None, **options: Any) -> LocalHost:
        made.append(LocalHost(folder or tmp_path / "host", **options))
        return made[-1]

    yield make
    for host in made:
        host.clean_up()


@pytest.fixture(scope="module")
def module_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHost]:
    host = LocalHost(tmp_path_factory.mktemp("local") / "host", command=STAND_IN)
    yield host
    host.clean_up()


@pytest.fixture
def host(module_host: LocalHost) -> Iterator[LocalHost]:
    """A running local host with stand-ins for agents, without boxes and faults; tests of a module share its process."""
    if module_host.process is None:
        module_host.start()
    yield module_host
    if module_host.process is None:
        module_host.start()
    faults_clear(module_host.folder)
    for box in module_host.provider.listing():
        module_host.provider.destroy(box.ref)
    eventually(lambda: not module_host.provider.listing())
    assert marked(f"{module_host.folder}:") == [], "a box is gone and its processes are not"
