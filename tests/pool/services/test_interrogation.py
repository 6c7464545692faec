"""Asking workers that are late: by a URL that the operator allows, else by doorbell; against a real /health."""

from __future__ import annotations

import ipaddress
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.urls import reverse

from agent.health import HealthServer, health
from core import broker
from core.errors import TooSoon
from core.http_guarded import GuardedHttp
from core.places import Place, Reach
from core.reasons import because
from gateway import keys
from pool.models import Interrogation, Worker
from pool.services import interrogation, publish
from pool.services.intake import intake_drain
from pool.services.interrogation import (
    ASK_AGAIN,
    OPEN,
    NothingToAsk,
    interrogations_tick,
    late,
    may_be_asked,
    urls_ask,
    worker_interrogate,
)
from pool.services.workers import overdue_at, worker_drain
from pool.states import WorkerState
from tests.pool.conftest import NOON

Enrol = Callable[..., Worker]
pytestmark = pytest.mark.usefixtures("valkey")

SAID = health(
    status="busy",
    runtime_hours=2.5,
    max_hours=11.5,
    gpu="Tesla T4",
    provider="colab",
    now=datetime(2026, 11, 18, 12, 0, 1, tzinfo=UTC),
)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.fixture
def place(settings: Any, tmp_path: Path) -> Iterator[str]:
    """The address of an agent's own /health, which the operator allows."""
    server = HealthServer(port=0, state_dir=tmp_path, report=lambda: SAID)
    server.start()
    settings.HEALTH_PLACES = (Place.parse(f"http://127.0.0.1:{server.port}"),)
    settings.PRIVATE_NETWORKS = ()
    yield f"http://127.0.0.1:{server.port}/health"
    server.stop()


@pytest.fixture
def late_one(enrol: Enrol) -> Callable[..., Worker]:
    """late_one("w", health_url=…) is a worker one of whose posts is missing."""

    def make(name: str = "w", *, state: str = WorkerState.SUSPECT, **columns: Any) -> Worker:
        worker = enrol(name)
        columns = {"last_seen_at": at(-60), "due_at": at(10), "state": state, **columns}
        Worker.objects.filter(pk=worker.pk).update(**columns)
        worker.refresh_from_db()
        return worker

    return make


def asked(worker: Worker) -> Interrogation:
    return Interrogation.objects.get(worker=worker)


def orders(worker: Worker) -> list[dict[str, str]]:
    return json.loads(broker.client().hget(keys.ORDERS, worker.pk) or "[]")


# -- who is asked, and how ------------------------------------------------------------------------------------------


def test_whoever_is_late_is_asked_by_doorbell_once_a_minute(
    late_one: Callable[..., Worker], enrol: Enrol, django_capture_on_commit_callbacks: Any
) -> None:
    punctual, worker = enrol("on time"), late_one()
    with django_capture_on_commit_callbacks(execute=True):
        assert interrogations_tick(now=NOON) == 1
    row = asked(worker)
    assert (row.way, row.asked_at, row.asked_by) == ("doorbell", NOON, "")
    assert not Interrogation.objects.filter(worker=punctual).exists()
    assert orders(worker) == [{"kind": "interrogate", "id": row.order_id}]
    assert broker.client().llen(f"w:{worker.pk}:jobs") == 1
    assert interrogations_tick(now=at(10)) == 0
    assert interrogations_tick(now=NOON + ASK_AGAIN) == 2  # it closes the one and asks another
    assert asked(worker).asked_at == NOON + ASK_AGAIN


def test_a_draining_worker_that_is_late_is_asked_and_one_that_is_not_is_left_alone(
    late_one: Callable[..., Worker],
) -> None:
    silent = late_one("silent", state=WorkerState.DRAINING)
    late_one(
        "well",
        state=WorkerState.DRAINING,
        last_seen_at=at(-5),
        due_at=overdue_at(at(-5), check_interval_s=30),
    )
    assert [worker.pk for worker in late(now=NOON)] == [silent.pk]


def test_one_that_is_late_is_asked_however_many_others_drain_in_good_health(
    late_one: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrogation, "AT_ONCE", 1)
    well = {"last_seen_at": at(-5), "due_at": overdue_at(at(-5), check_interval_s=30)}
    for number in range(8):
        late_one(f"well {number}", state=WorkerState.DRAINING, **well)
    silent = late_one("silent", state=WorkerState.DRAINING)
    late_one("slow", state=WorkerState.DRAINING, check_interval_s=300)
    # Asked before, so that it comes after all that never were.
    worker_interrogate(silent, now=NOON - 2 * ASK_AGAIN)
    assert [worker.pk for worker in late(now=NOON)] == [silent.pk]


def test_one_that_has_just_been_lost_is_asked_and_one_that_was_lost_long_ago_is_not(
    late_one: Callable[..., Worker],
) -> None:
    fresh = late_one("fresh", state=WorkerState.LOST, due_at=None, state_since=at(-60))
    late_one("old", state=WorkerState.LOST, due_at=None, state_since=at(-3600))
    assert [worker.pk for worker in late(now=NOON)] == [fresh.pk]


def test_those_that_were_never_asked_come_first(
    late_one: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrogation, "AT_ONCE", 2)
    rows = [late_one(f"w{number}") for number in range(5)]
    for run in range(3):
        interrogations_tick(now=at(run))
    assert Interrogation.objects.count() == len(rows)


def test_a_worker_without_a_session_is_not_asked(enrol: Enrol) -> None:
    worker = enrol(online=False)
    with pytest.raises(NothingToAsk, match="is offline"):
        worker_interrogate(worker, now=NOON)


def test_nobody_is_asked_twice_within_a_moment(late_one: Callable[..., Worker]) -> None:
    worker = late_one()
    worker_interrogate(worker, by="alice", now=NOON)
    with pytest.raises(TooSoon) as refused:
        worker_interrogate(worker, by="bob", now=at(2))
    assert refused.value.retry_after_s == 3
    assert worker_interrogate(worker, by="bob", now=at(5)).asked_by == "bob"


# -- by doorbell ----------------------------------------------------------------------------------------------------


def test_its_next_post_is_the_answer_and_the_order_is_taken_back(
    late_one: Callable[..., Worker], stream: Callable[..., str], django_capture_on_commit_callbacks: Any
) -> None:
    worker = late_one()
    with django_capture_on_commit_callbacks(execute=True):
        worker_interrogate(worker, now=NOON)
    stream(
        worker, at=at(2), status="idle", session_runtime_hours=3.45, max_session_hours=11.5,
        gpus=[{"index": 0, "name": "Tesla T4"}], timestamp="2026-11-18T12:00:02Z",
    )  # fmt: skip
    with django_capture_on_commit_callbacks(execute=True):
        intake_drain(now=at(3))
    row = asked(worker)
    assert (row.open_until, row.answered_at, row.reason) == (None, at(2), "it answered")
    assert row.answer == {
        "status": "idle", "sessionRuntimeHours": 3.45, "maxSessionHours": 11.5, "utilizationPercentage": 30.0,
        "gpu": "Tesla T4", "provider": "local", "timestamp": "2026-11-18T12:00:02Z",
    }  # fmt: skip
    assert orders(worker) == []


def test_a_post_from_before_the_question_is_no_answer(
    late_one: Callable[..., Worker], stream: Callable[..., str]
) -> None:
    worker = late_one()
    worker_interrogate(worker, now=NOON)
    stream(worker, at=at(-1), status="idle")
    intake_drain(now=at(1))
    assert asked(worker).answered_at is None


def test_silence_is_said_and_an_older_answer_stays(
    late_one: Callable[..., Worker], stream: Callable[..., str], django_capture_on_commit_callbacks: Any
) -> None:
    worker = late_one()
    worker_interrogate(worker, now=NOON)
    stream(worker, at=at(1), status="idle")
    intake_drain(now=at(1))
    worker_interrogate(worker, by="ops", now=at(100))
    with django_capture_on_commit_callbacks(execute=True):
        interrogations_tick(now=at(100) + OPEN)
    row = asked(worker)
    assert (row.reason, row.answered_at, row.answer["status"]) == ("it did not answer", at(1), "idle")
    assert row.open_until is None and orders(worker) == []


def test_orders_survive_a_broker_that_lost_its_data(late_one: Callable[..., Worker]) -> None:
    worker = late_one()
    row = worker_interrogate(worker, now=NOON)
    broker.client().flushall()
    publish.publish_all(now=at(1))
    assert orders(worker) == [{"kind": "interrogate", "id": row.order_id}]


# -- by URL ---------------------------------------------------------------------------------------------------------


def test_an_agents_health_is_read_at_its_url(place: str, late_one: Callable[..., Worker]) -> None:
    worker = late_one(health_url=place)
    interrogations_tick(now=NOON)
    assert asked(worker).way == "url"
    assert publish.orders_of([worker.pk]) == {}
    assert urls_ask(now=at(1), clock=lambda: at(2)) == 1
    row = asked(worker)
    assert (row.answered_at, row.reason, row.open_until) == (at(2), "it answered", None)
    assert row.answer == SAID
    assert urls_ask(now=at(3)) == 0


def test_an_answer_changes_nothing_but_itself(place: str, late_one: Callable[..., Worker]) -> None:
    """Anybody could stand at that address: a worker is online because it posts."""
    worker = late_one(health_url=place)
    before = Worker.objects.filter(pk=worker.pk).values().get()
    worker_interrogate(worker, now=NOON)
    urls_ask(now=at(1))
    assert Worker.objects.filter(pk=worker.pk).values().get() == before


def test_a_url_that_the_operator_does_not_allow_is_never_asked(
    place: str, late_one: Callable[..., Worker], settings: Any
) -> None:
    settings.HEALTH_PLACES = (Place.parse("https://*.example.org"),)
    worker = late_one(health_url=place)
    worker_interrogate(worker, now=NOON)
    assert asked(worker).way == "doorbell"
    assert urls_ask(now=at(1)) == 0


def test_what_the_operator_takes_back_after_the_question_counts(
    place: str, late_one: Callable[..., Worker], settings: Any
) -> None:
    worker = late_one(health_url=place)
    worker_interrogate(worker, now=NOON)
    settings.HEALTH_PLACES = ()
    urls_ask(now=at(1))
    assert "not among the places" in asked(worker).reason


@pytest.mark.parametrize(
    "url",
    ["https://h.example.org/admin/delete", "https://h.example.org/health?then=delete", "https://h.example.org/",
     "https://h.example.org/api/shutdown?x=/health", "https://h.example.org/api/shutdown;x=/health",
     "https://h.example.org/anything/health", "https://h.example.org//health", "https://h.example.org/health/",
     "https://h.example.org/health?", "https://h.example.org/health#", "https://h.example.org/api?/health#/health",
     "https://h.example.org/%2e%2e/health", "https://h.example.org/..//health", "https://h.example.org/health;a",
     "http://h.example.org/health", "https://169.254.169.254/health", "file:///etc/health"],
)  # fmt: skip
def test_an_agent_may_name_a_place_but_not_what_is_asked_there(settings: Any, url: str) -> None:
    settings.HEALTH_PLACES = (Place.parse("https://*.example.org"),)
    assert may_be_asked("https://h.example.org/health") is None
    assert may_be_asked(url) is not None


class Liar:
    """Something at a health URL that is no agent."""

    def __init__(self) -> None:
        self.status, self.body, self.asked = 200, b"{}", 0
        self.wait = threading.Event()
        self.wait.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                outer.wait.wait(10)
                self.send_response(outer.status)
                self.send_header("Location", "http://127.0.0.1:1/health")
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # whoever asked has gone
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/health"


@pytest.fixture
def liar(settings: Any) -> Iterator[Liar]:
    running = Liar()
    settings.HEALTH_PLACES = (Place.parse("http://127.0.0.1:*"),)
    settings.PRIVATE_NETWORKS = (ipaddress.ip_network("127.0.0.0/8"),)
    yield running
    running.wait.set()
    running.server.shutdown()
    running.server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (200, b"<html>", "not JSON"),
        (200, b"[]", "no JSON object"),
        (200, b"{}", "no status"),
        (200, b'{"status": 7}', "no status"),
        (200, b'{"status": "idle", "gpu": {}}', "gpu is no text"),
        (200, b'{"status": "idle", "sessionRuntimeHours": "3"}', "is no number"),
        (200, b'{"status": "idle", "sessionRuntimeHours": 1e999}', "out of all proportion"),
        (200, b'{"status": "idle", "sessionRuntimeHours": NaN}', "out of all proportion"),
        (200, b'{"status": "idle", "maxSessionHours": 1' + b"0" * 400 + b"}", "out of all proportion"),
        (200, b"x" * 20_000, "longer than 16384 bytes"),
        (302, b"", "it answered 302"),
        (500, b"", "it answered 500"),
    ],
)
def test_what_is_no_health_is_said_so(
    liar: Liar, late_one: Callable[..., Worker], status: int, body: bytes, why: str
) -> None:
    liar.status, liar.body = status, body
    worker = late_one(health_url=liar.url)
    worker_interrogate(worker, now=NOON)
    urls_ask(now=at(1))
    row = asked(worker)
    assert why in row.reason
    assert (row.answered_at, row.answer, row.open_until, liar.asked) == (None, {}, None, 1)


def test_texts_of_an_answer_are_cut_and_storable(liar: Liar, late_one: Callable[..., Worker]) -> None:
    liar.body = json.dumps({"status": "idle\x00\ud800", "gpu": "x" * 5000, "more": "left out"}).encode()
    worker = late_one(health_url=liar.url)
    worker_interrogate(worker, now=NOON)
    urls_ask(now=at(1))
    answer = asked(worker).answer
    assert answer["status"] == "idle?" and len(answer["gpu"]) == 80 and "more" not in answer


def test_slow_ones_are_asked_side_by_side_and_none_for_long(
    liar: Liar, late_one: Callable[..., Worker]
) -> None:
    liar.wait.clear()
    for number in range(8):
        worker_interrogate(late_one(f"w{number}", health_url=liar.url), now=NOON)
    http = GuardedHttp(reach=Reach(places=(Place.parse("http://127.0.0.1:*"),)), total_s=0.3)
    started = time.monotonic()
    assert urls_ask(now=at(1), http=http) == 8
    assert time.monotonic() - started < 2
    assert all(
        "did not answer: no answer from 127.0.0.1" in row.reason for row in Interrogation.objects.all()
    )


def test_a_question_is_asked_by_one_of_two_and_closed_where_that_one_died(
    liar: Liar, late_one: Callable[..., Worker]
) -> None:
    worker = late_one(health_url=liar.url)
    worker_interrogate(worker, now=NOON)
    Interrogation.objects.update(asking_at=at(1))  # somebody began, and was killed
    assert urls_ask(now=at(2)) == 0
    interrogations_tick(now=NOON + OPEN)
    assert asked(worker).reason == "it did not answer"


def test_an_answer_to_an_older_question_is_not_the_new_ones(
    liar: Liar, late_one: Callable[..., Worker]
) -> None:
    liar.body = json.dumps(SAID).encode()
    worker = late_one(health_url=liar.url)
    row = worker_interrogate(worker, now=NOON)
    worker_interrogate(worker, now=at(10))
    interrogation._store(row, reason=because("question_answered"), answer=SAID, answered_at=at(11))
    assert asked(worker).answered_at is None
    assert asked(worker).open_until is not None


# -- people ---------------------------------------------------------------------------------------------------------


def test_people_ask_and_read_the_answer_with_its_age(
    api_client: Callable[..., Any], alice: User, bob: User, place: str, late_one: Callable[..., Worker]
) -> None:
    worker = late_one(health_url=place)
    at_worker = f"/api/workers/{worker.pk}"
    client = api_client(alice)
    assert client.get(at_worker).json()["interrogation"] is None
    answer = client.post(f"{at_worker}/interrogate")
    assert answer.status_code == 202
    assert (answer.json()["way"], answer.json()["open"], answer.json()["asked_by"]) == ("url", True, "alice")
    again = client.post(f"{at_worker}/interrogate")
    assert again.status_code == 429 and int(again["Retry-After"]) <= 5
    urls_ask(now=datetime.now(UTC))
    body = client.get(at_worker).json()["interrogation"]
    assert body["answer"] == SAID
    assert body["open"] is False and 0 <= body["age_s"] < 60
    assert api_client(bob).get("/api/workers").json()["results"][0]["interrogation"]["answer"] == SAID
    assert api_client(bob).post(f"{at_worker}/interrogate").status_code == 403
    assert api_client(alice, "read").post(f"{at_worker}/interrogate").status_code == 403
    assert client.post("/api/workers/w_nobody/interrogate").status_code == 404


def test_a_worker_that_cannot_answer_is_said_so(
    api_client: Callable[..., Any], alice: User, enrol: Enrol
) -> None:
    worker = enrol(online=False)
    answer = api_client(alice).post(f"/api/workers/{worker.pk}/interrogate")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_session")


def test_lists_cost_no_query_more_for_answers(
    api_client: Callable[..., Any],
    alice: User,
    late_one: Callable[..., Worker],
    django_assert_max_num_queries: Any,
) -> None:
    for number in range(8):
        worker_interrogate(late_one(f"w{number}"), now=NOON)
    client = api_client(alice)
    client.get("/api/workers")
    with django_assert_max_num_queries(12):
        client.get("/api/workers")


def test_the_console_asks_by_a_confirmed_post_and_shows_the_answer(
    ops: User, client: Any, place: str, late_one: Callable[..., Worker]
) -> None:
    worker = late_one(health_url=place)
    client.force_login(ops)
    page = reverse("admin:pool_worker_change", args=[worker.pk])
    assert "never asked" in client.get(page).content.decode()
    ask = reverse("admin:pool_worker_interrogate", args=[worker.pk])
    assert b"<form" in client.get(ask).content
    assert not Interrogation.objects.exists()
    client.post(ask, {"_form_submitted": "true"})
    urls_ask(now=datetime.now(UTC))
    assert "it answered; busy, Tesla T4, 2.50h/11.5h (" in client.get(page).content.decode()


def test_draining_and_asking_are_two_orders(late_one: Callable[..., Worker]) -> None:
    worker = late_one()
    worker_drain(worker, reason=because("operator", note="x"), now=NOON)
    worker_interrogate(worker, now=at(1))
    assert [order.kind for order in publish.orders_of([worker.pk])[worker.pk]] == ["drain", "interrogate"]
