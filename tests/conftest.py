"""What every test may use. Real servers, one each for the whole run; nothing leaves this machine."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings
from hypothesis import settings as hypothesis_settings

from tests.servers import valkey as valkey_server

os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
"""For child processes; pytest-django has loaded `tests.settings` by now (--ds in pyproject.toml outweighs this)."""

# No test is about time: a property that takes longer on a busy machine holds all the same. And a test says the same of the
# same code each time; whoever changes a property looks further, with --hypothesis-profile=explore.
hypothesis_settings.register_profile("project", deadline=None, print_blob=True, derandomize=True)
hypothesis_settings.register_profile("explore", deadline=None, print_blob=True, max_examples=2_000)
hypothesis_settings.register_profile("quick", hypothesis_settings.get_profile("project"), max_examples=10)
hypothesis_settings.load_profile("project")


INSTALLATIONS = ("tests/e2e/", "tests/chaos/")
"""Folders whose tests share one whole installation."""

CHAINS = "tests/hibernation/chains/"
"""What they promise rests on the database's own locks and transactions: all of them run on every database."""

DATABASE_FIXTURES = {"db", "transactional_db", "django_db_setup", "live_server"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database-only",
        action="store_true",
        help="only tests that touch the database, and of the slow ones only the chains'",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Where slow tests are left out, properties that name no number of examples are tried with fewer."""
    is_quick = config.getoption("--database-only") or config.getoption("markexpr") == "not slow"
    if is_quick and not config.getoption("--hypothesis-profile"):
        hypothesis_settings.load_profile("quick")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, with the tests of each of INSTALLATIONS on one worker and before all others.

    Starting an installation takes as long as hundreds of tests; while it is waited for, the other worker computes.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class LoadFolderOrFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((folder for folder in INSTALLATIONS if file.startswith(folder)), file)

    config.option.loadscopereorder = False
    return LoadFolderOrFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Installations first, then files with slow tests, lest one worker still computes when all others are done.

    --database-only: what is worth a second run on another database.

    That is one test of each kind, and every chain; what else is slow goes through the same queries many times.
    """
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not item.nodeid.startswith(INSTALLATIONS), item.path not in long))
    if not config.getoption("--database-only"):
        return
    chosen = [
        item
        for item in items
        if (
            item.get_closest_marker("django_db") or DATABASE_FIXTURES & set(getattr(item, "fixturenames", ()))
        )
        and (item.nodeid.startswith(CHAINS) or not item.get_closest_marker("slow"))
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def _stays_here(address: object) -> bool:
    """Unix sockets, and loopback addresses by number or as localhost."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """A connection to another machine fails the test that tries it, by name."""
    connect, connect_ex, lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(address: object) -> None:
        if not _stays_here(address):
            raise AssertionError(f"a test tried to reach {address!r}")

    def guarded_connect(self: socket.socket, address: object) -> None:
        refuse(address)
        return connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: object) -> int:
        refuse(address)
        return connect_ex(self, address)

    def guarded_lookup(host: object, *args: object, **kwargs: object) -> object:
        refuse((host.decode() if isinstance(host, bytes) else host or "",))
        return lookup(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_lookup)
        yield


@pytest.fixture(scope="session")
def _valkey() -> Iterator[valkey_server.Valkey]:
    """One server for the run, at the address that the settings name."""
    server = valkey_server.Valkey(django_settings.RUN_DIR)
    assert server.url == django_settings.REDIS_URL
    yield server
    server.stop()


@pytest.fixture
def valkey(_valkey: valkey_server.Valkey) -> valkey_server.Valkey:
    """A real Valkey behind settings.REDIS_URL, empty. A test may kill and restart it; the next one finds it running."""
    if not _valkey.running:
        _valkey.restart()
    from core import broker

    broker.client().flushall()
    return _valkey


@pytest.fixture
def api_client(db: None, valkey: valkey_server.Valkey) -> Callable[..., Any]:
    """api_client() is nobody; api_client(user) carries a fresh token of that user, api_client(user, "read") of that scope."""
    from rest_framework.test import APIClient

    from core.tokens import token_issue

    def make(user: Any = None, *scopes: str) -> APIClient:
        client = APIClient()
        if user is not None:
            _, plain = token_issue(user=user, name="test", scopes=scopes or ("read", "operate"))
            client.credentials(HTTP_AUTHORIZATION=f"Bearer {plain}")
        return client

    return make
