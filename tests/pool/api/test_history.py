"""Reading the history: hours by worker and account, readings in three resolutions; each sees what is hers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.test import APIClient

from pool.models import Sample, Worker, WorkerDay
from pool.services.accounts import account_create
from pool.services.history import utilisation_add

Client = Callable[..., APIClient]
Enrol = Callable[..., Worker]


def use(worker: Worker, days_ago: int, hours: float) -> None:
    day = timezone.now().date() - timedelta(days=days_ago)
    WorkerDay.objects.create(worker=worker, day=day, used_s=hours * 3600)


def test_a_workers_hours_by_day(api_client: Client, alice: User, enrol: Enrol) -> None:
    worker = enrol("w")
    for days_ago, hours in ((0, 1.5), (3, 2.0), (40, 9.0)):
        use(worker, days_ago, hours)
    client = api_client(alice)
    body = client.get(f"/api/workers/{worker.pk}/usage").json()
    assert body["total_hours"] == 3.5
    assert [row["hours"] for row in body["days"]] == [2.0, 1.5]
    assert client.get(f"/api/workers/{worker.pk}/usage?days=1").json()["total_hours"] == 1.5
    assert client.get(f"/api/workers/{worker.pk}/usage?days=366").json()["total_hours"] == 12.5


def test_hours_by_account_are_those_of_its_workers_and_of_its_owner(
    api_client: Client, alice: User, bob: User, ops: User, enrol: Enrol
) -> None:
    theirs = account_create(owner=bob, kind="kaggle", label="b")
    for name, into, hours in (("a1", None, 1.0), ("a2", None, 2.0), ("b1", theirs, 4.0)):
        use(enrol(name, into=into), 1, hours)

    def totals(user: User) -> dict[str, float]:
        rows = api_client(user).get("/api/pool/usage").json()["accounts"]
        return {row["account"]["label"]: row["total_hours"] for row in rows}

    assert totals(alice) == {"rack": 3.0}
    assert totals(bob) == {"b": 4.0}
    assert totals(ops) == {"rack": 3.0, "b": 4.0}


def test_readings_in_three_resolutions(api_client: Client, alice: User, enrol: Enrol) -> None:
    worker = enrol("w")
    hour = timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    for second, util in ((0, 10.0), (30, 30.0), (60, None)):
        Sample.objects.create(worker=worker, epoch=1, at=hour + timedelta(seconds=second), gpu_util=util)
    utilisation_add()
    client = api_client(alice)

    def rows(resolution: str, **query: str) -> list[tuple[float | None, float | None, int]]:
        body = client.get(f"/api/workers/{worker.pk}/samples", {"resolution": resolution, **query}).json()
        return [(row["gpu_util"], row["gpu_util_max"], row["samples"]) for row in body["results"]]

    assert rows("raw") == [(None, None, 1), (30.0, 30.0, 1), (10.0, 10.0, 1)]
    assert rows("minute") == [(None, None, 1), (20.0, 30.0, 2)]
    assert rows("hour") == [(20.0, 30.0, 3)]
    later = (hour + timedelta(seconds=60)).isoformat()
    assert rows("minute", since=later) == [(None, None, 1)]
    assert rows("minute", until=later) == [(20.0, 30.0, 2)]
    assert rows("raw", limit="1") == [(None, None, 1)]


def test_somebody_elses_worker_is_not_there(api_client: Client, alice: User, bob: User, enrol: Enrol) -> None:
    worker = enrol("w")
    Worker.objects.filter(pk=worker.pk).update(owner=alice)
    for place in ("usage", "samples"):
        assert api_client(bob).get(f"/api/workers/{worker.pk}/{place}").status_code == 404
        assert api_client(alice).get(f"/api/workers/{worker.pk}/{place}").status_code == 200


@pytest.mark.parametrize(
    "query",
    ["usage?days=0", "usage?days=1000", "usage?days=x", "samples?resolution=second", "samples?since=yesterday",
     "samples?until=%00", "usage?days=%FF"],
)  # fmt: skip
def test_a_question_that_makes_no_sense_is_refused(
    api_client: Client, alice: User, enrol: Enrol, query: str
) -> None:
    answer = api_client(alice).get(f"/api/workers/{enrol('w').pk}/{query}")
    assert answer.status_code == 400
    assert {"code", "message", "hint"} <= set(answer.json())
