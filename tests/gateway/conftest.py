"""One Valkey, one web process and one gateway process for each test module; clean Redis for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.gateway.harness import ControlPlane, GatewayProcess
from tests.gateway.web import Web
from tests.servers import valkey


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gw")


@pytest.fixture(scope="module")
def broker(folder: Path) -> Iterator[valkey.Valkey]:
    server = valkey.start(folder)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def web_server(folder: Path) -> Iterator[Web]:
    server = Web(folder / "web.sock")
    yield server
    server.stop()


@pytest.fixture
def web(web_server: Web) -> Iterator[Web]:
    web_server.forget()
    yield web_server
    web_server.release.set()


@pytest.fixture(scope="module")
def gateway(broker: valkey.Valkey, web_server: Web) -> Iterator[GatewayProcess]:
    process = GatewayProcess(upstream=str(web_server.path), redis_url=broker.url)
    process.wait_for("redis connected")
    yield process
    process.close()


@pytest.fixture
def make_gateway(broker: valkey.Valkey, web_server: Web) -> Iterator[Callable[..., GatewayProcess]]:
    """A gateway of the test's own, with other settings (upstream, redis_url, or any variable)."""
    made: list[GatewayProcess] = []

    def make(**settings: str) -> GatewayProcess:
        made.append(GatewayProcess(**{"upstream": str(web_server.path), "redis_url": broker.url} | settings))
        return made[-1]

    yield make
    for process in made:
        process.close()


@pytest.fixture
def control(broker: valkey.Valkey) -> Iterator[ControlPlane]:
    client = redis.Redis.from_url(broker.url)
    client.flushall()
    yield ControlPlane(client)
    client.close()
