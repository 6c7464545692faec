"""One installation for all end-to-end tests of a run, ended with the last of them; and a second one on PostgreSQL for those that ask for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pool.terms import TERMS
from tests.e2e.installation import Installation
from tests.e2e.rented import Rented
from tests.servers import postgres


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """SQLite, an embedded Valkey, web, gateway, two Celery workers, beat, the local host. Ended, whole, at the end."""
    yield from _running(Installation(tmp_path_factory.mktemp("e2e")))


@pytest.fixture(scope="package")
def installation_on_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    server = postgres.start()
    if server is None:
        pytest.skip("no PostgreSQL on this machine")
    try:
        yield from _running(Installation(tmp_path_factory.mktemp("e2e-pg"), database_url=server.url))
    finally:
        server.stop()


def _running(made: Installation) -> Iterator[Installation]:
    try:
        yield made.start()
    finally:
        made.stop()


_numbers = itertools.count(1)


@pytest.fixture
def account(installation: Installation) -> Callable[..., str]:
    """account("colab", check_interval_s=1) → the id of a new account."""

    def make(kind: str = "local", **fields: object) -> str:
        label = f"{kind} {next(_numbers)}"
        known = {"acknowledged_terms": TERMS[kind].version} if kind in TERMS else {}
        made = installation.client().post("/api/accounts", kind=kind, label=label, **{**known, **fields})
        return str(made["id"])

    return make


@dataclass(frozen=True)
class Worker:
    """A pool worker with a real agent of its own, which goes by its name."""

    installation: Installation
    id: str
    name: str

    @property
    def folder(self) -> Path:
        return self.installation.agent_folder(self.name)

    def said(self) -> str:
        return self.installation.said(self.name)


@pytest.fixture
def join(installation: Installation, account: Callable[..., str]) -> Iterator[Callable[..., Worker]]:
    """join("name", "colab", check_interval_s=1) → a worker of a new account of that kind. It leaves with the test."""
    joined: list[Worker] = []

    def make(name: str, kind: str = "local", *, extra: tuple[str, ...] = (), **fields: object) -> Worker:
        name = f"{name}-{next(_numbers)}"
        owned = account(kind, **{"check_interval_s": 1, **fields})
        worker = Worker(installation, installation.join(owned, name, provider=kind, extra=extra), name)
        joined.append(worker)
        return worker

    yield make
    for worker in joined:
        installation.leave(worker.id, worker.name)


@pytest.fixture
def submit(installation: Installation) -> Iterator[Callable[..., str]]:
    """submit(command=[…]) → the id of a job. One that has not ended by then is cancelled at the end of the test."""
    client = installation.client()
    submitted: list[str] = []

    def make(**fields: object) -> str:
        submitted.append(str(client.post("/api/jobs", **fields)["id"]))
        return submitted[-1]

    yield make
    for job in submitted:
        client.call("POST", f"/api/jobs/{job}/cancel", {})


@pytest.fixture
def rent(installation: Installation, account: Callable[..., str]) -> Iterator[Callable[..., Rented]]:
    """rent("name") → an instance whose box is up. Given up, its work lost, at the end of the test."""
    rented: list[Rented] = []

    def make(name: str, **fields: object) -> Rented:
        one = Rented.rent(installation, account=account(), name=f"{name}-{next(_numbers)}", **fields)
        rented.append(one)
        return one.until("running")

    yield make
    for one in rented:
        one.client.call("DELETE", f"/api/instances/{one.id}", discard="workspace")
