"""Labels and reasons over the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import User

from pool.models import Worker
from pool.services.jobs import jobs_dispatch
from tests.pool.conftest import NOON


def test_a_worker_is_labelled_by_its_owner_or_an_operator_and_jobs_find_it(
    api_client: Callable[..., Any], alice: User, bob: User, ops: User, enrol: Callable[..., Worker]
) -> None:
    place = f"/api/workers/{enrol('w').pk}/labels"
    labels = {"gpu": "a100", "disk": "nvme"}
    assert api_client(bob).put(place, {"labels": labels}, format="json").status_code == 403
    refused = api_client(alice).put(place, {"labels": {"GPU": "x"}}, format="json")
    assert (refused.status_code, "GPU" in refused.json()["message"]) == (400, True)
    assert api_client(alice).put(place, {"labels": labels}, format="json").json()["labels"] == labels
    assert api_client(ops).put(place, {"labels": {"gpu": "a100"}}, format="json").json()["labels"] == {
        "gpu": "a100"
    }

    spec = {"command": ["true"], "labels": {"gpu": "a100"}}
    job = api_client(bob).post("/api/jobs", spec, format="json").json()
    assert job["labels"] == {"gpu": "a100"}
    other = api_client(bob).post("/api/jobs", {**spec, "labels": labels}, format="json").json()
    assert jobs_dispatch(now=NOON) == 1
    found = {row["id"]: row for row in api_client(bob).get("/api/jobs").json()["results"]}
    assert found[job["id"]]["status"] == "dispatched"
    assert found[other["id"]]["reason"] == "no worker that fits has the labels disk=nvme, gpu=a100"
    assert found[other["id"]]["remedy"] == "give a worker the labels disk=nvme, gpu=a100, or ask for fewer"


def test_what_is_no_label_is_refused_with_the_job(
    api_client: Callable[..., Any], alice: User, enrol: Callable[..., Worker]
) -> None:
    enrol("w")
    for labels in ({"a": "|"}, {"a": ""}, {"a": None}, {"a": "x" * 41}, ["a"], {"a b": "c"}):
        answer = api_client(alice).post("/api/jobs", {"command": ["true"], "labels": labels}, format="json")
        assert answer.status_code == 400, labels
