"""/healthz, /readyz and the front door's headers."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
from django.utils import timezone

from config.launcher.lockfile import STARTING, Lock
from config.readiness import missing
from core import broker
from core.models import Lease, TickRun
from gateway import keys


def ran(name: str, ago_s: float) -> None:
    at = timezone.now() - timedelta(seconds=ago_s)
    TickRun.objects.create(name=name, started_at=at, finished_at=at, resumed_at=at)


@pytest.fixture
def all_well(db, valkey):
    """Everything that readiness looks at, in order; yields nothing."""
    Lease.objects.create(name="beat", holder="somebody", until=timezone.now() + timedelta(seconds=5))
    ran("core.chains_tick", 1)
    ran("config.chains_pulse", 1)
    with broker.client().pubsub() as gateway:
        gateway.subscribe(keys.RINGS)
        gateway.get_message(timeout=5)
        yield


def test_ready_when_every_part_works(all_well, client):
    assert missing(now=timezone.now()) == []
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "missing": []})


def test_every_part_that_is_missing_is_named(db, valkey, client):
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert [sentence.partition(":")[0] for sentence in answer.json()["missing"]] == [
        "gateway", "beat", "worker of queue tick", "worker of queue chains",
    ]  # fmt: skip


def test_worker_that_stopped_serving_its_queue_is_named_with_the_time(all_well):
    TickRun.objects.filter(name="config.chains_pulse").update(
        finished_at=timezone.now() - timedelta(minutes=2)
    )
    assert missing(now=timezone.now()) == ["worker of queue chains: config.chains_pulse last ran 120 s ago"]


def test_broker_that_is_away_is_named_and_the_rest_is_still_asked(all_well, valkey):
    valkey.kill()
    [sentence] = missing(now=timezone.now())
    assert sentence.startswith("redis:")


def test_beat_whose_lease_ran_out_is_named(all_well):
    assert missing(now=timezone.now() + timedelta(seconds=6)) == ["beat: none holds the lease"]


def test_an_installation_is_not_ready_before_its_launcher_is_done(all_well, settings, tmp_path):
    settings.DATA_DIR = tmp_path
    lock = Lock.take(tmp_path)
    assert missing(now=timezone.now()) == [STARTING]
    lock.tell(url="http://127.0.0.1:8000/")
    assert missing(now=timezone.now()) == []
    os.close(lock.fd)


def test_a_launcher_that_was_killed_while_it_started_makes_nothing_unready(all_well, settings, tmp_path):
    settings.DATA_DIR = tmp_path
    take = (
        "import pathlib, sys; from config.launcher.lockfile import Lock; Lock.take(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", take, str(tmp_path)], check=True)
    assert missing(now=timezone.now()) == []


def test_alive_needs_nothing_but_this_process(client):
    answer = client.get("/healthz")
    assert (answer.status_code, answer.content) == (200, b"ok\n")


def test_pages_may_load_nothing_from_elsewhere(db, client):
    policy = client.get("/login/").headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]


def test_whoever_opens_the_api_docs_is_asked_to_sign_in_and_comes_back_to_them(db, client, admin_client):
    asked = client.get("/api/docs/")
    assert (asked.status_code, asked.headers["Location"]) == (302, "/login/?next=/api/docs/")
    assert admin_client.get("/api/docs/").status_code == 200


def test_unknown_address_is_an_error_that_its_reader_understands(client):
    answer = client.get("/api/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    page = client.get("/nothing")
    assert (page.status_code, page.headers["Content-Type"].partition(";")[0]) == (404, "text/html")


def test_not_being_ready_is_no_line_in_the_log(db, valkey, client, caplog):
    assert client.get("/readyz").status_code == 503
    assert [record for record in caplog.records if record.name == "django.request"] == []
    client.get("/nothing")
    assert [record.name for record in caplog.records if record.name == "django.request"] == ["django.request"]
