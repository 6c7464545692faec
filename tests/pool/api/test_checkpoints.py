"""Checkpoints over HTTP: as people ask for them and see them, and as agents take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.urls import reverse
from rest_framework.test import APIClient

from agent import wire
from core.chains import chain_enter
from core.models import Chain
from pool.models import Dispatch, Job, Worker
from pool.services.jobs import jobs_dispatch
from snapshots.models import Snapshot
from tests.pool.api.test_agents import path, speaking
from tests.snapshots.rows import folder_store, taken

Client = Callable[..., APIClient]


@pytest.fixture(autouse=True)
def store_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    yield from folder_store(monkeypatch, tmp_path)


def submit(client: APIClient, **fields: Any) -> Any:
    return client.post("/api/jobs", {"command": ["true"], **fields}, format="json")


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (True, {"every_minutes": 10}),
        ({}, {"every_minutes": 10}),
        ({"every_minutes": 2.5}, {"every_minutes": 2.5}),
        (False, None),
        (None, None),
    ],
)
def test_a_job_is_submitted_with_checkpoints_and_says_so(
    api_client: Client, alice: User, asked: Any, shown: Any
) -> None:
    answer = submit(api_client(alice), checkpoint=asked)
    assert answer.status_code == 201
    assert (answer.json()["checkpoint"], answer.json()["checkpoints"]) == (shown, [])


@pytest.mark.parametrize(
    "wrong",
    [
        "yes",
        10,
        [],
        {"every_minutes": "10"},
        {"every_minutes": True},
        {"every_minutes": 0},
        {"every_minutes": -1},
        {"every_minutes": 1e308},
        {"every_minutes": None},
        {"every_hours": 1},
    ],
)
def test_what_is_no_interval_is_refused_with_a_reason(api_client: Client, alice: User, wrong: Any) -> None:
    answer = submit(api_client(alice), checkpoint=wrong)
    assert answer.status_code == 400 and answer.json()["message"]
    assert not Job.objects.exists()


def test_a_job_on_an_instance_keeps_none_of_its_own(
    api_client: Client, alice: User, enrol: Callable[..., Worker]
) -> None:
    worker = enrol()
    Worker.objects.filter(pk=worker.pk).update(instance_ref="i_1", owner=alice)
    answer = submit(api_client(alice), checkpoint=True, instance="i_1")
    assert answer.status_code == 400
    assert answer.json()["hint"].startswith("leave checkpoint out: the workspace is kept")


def test_from_the_agents_first_question_to_what_its_owner_sees(
    api_client: Client, alice: User, bob: User, enrol: Callable[..., Worker], tmp_path: Path
) -> None:
    worker, other = enrol(), enrol("other", online=False)
    job_id = submit(api_client(alice), checkpoint=True).json()["id"]
    jobs_dispatch()
    row = Dispatch.objects.get(job=job_id)
    agent = speaking(worker)
    claimed = agent.post(path(row, "claim"), {}, format="json").json()
    assert claimed["work"]["checkpoint"] == {"every_s": 600}
    assert agent.post(path(row, "restore"), {"fence": 1}, format="json").json() == {"generation": 0}
    ask = {"fence": 1, "request_id": "r1"}
    answer = wire.CheckpointAnswer.from_json(agent.post(path(row, "checkpoint"), ask, format="json").json())
    work = tmp_path / "work"
    work.mkdir()
    (work / "counter").write_text("1")
    taken(Snapshot.objects.get(pk=answer.snapshot_id), work, speaker(worker))
    chain_enter(Chain.objects.get(state="active").pk)

    shown = api_client(alice).get(f"/api/jobs/{job_id}").json()
    [checkpoint] = shown["checkpoints"]
    assert (checkpoint["generation"], checkpoint["attempt"], checkpoint["status"]) == (1, 1, "verified")
    files = api_client(alice).get(f"/api/snapshots/{checkpoint['id']}/files/counter")
    assert b"".join(files.streaming_content) == b"1"
    assert api_client(bob).get(f"/api/snapshots/{checkpoint['id']}").status_code == 404
    refused = api_client(alice).delete(f"/api/snapshots/{checkpoint['id']}")
    assert (refused.status_code, refused.json()["code"]) == (409, "snapshot_in_use")

    answer = wire.RestoreAnswer.from_json(
        agent.post(path(row, "restore"), {"fence": 1}, format="json").json()
    )
    assert answer.snapshot_id == checkpoint["id"]
    [attempt] = api_client(alice).get(f"/api/jobs/{job_id}").json()["attempts"]
    assert (attempt["restored_from"], attempt["late"]) == (checkpoint["id"], None)
    # Another worker learns nothing of it, and neither does an older fence.
    for verb, body in (("restore", {"fence": 1}), ("checkpoint", ask)):
        assert speaking(other).post(path(row, verb), body, format="json").status_code == 404
        stale = agent.post(path(row, verb), {**body, "fence": 0}, format="json")
        assert (stale.status_code, stale.json()["code"]) == (409, "stand_down")


@pytest.mark.parametrize(
    "body",
    [
        {"fence": 1},
        {"fence": 1, "request_id": ""},
        {"fence": 1, "request_id": "a b"},
        {"fence": 1, "request_id": "x" * 33},
        {"fence": -1, "request_id": "r"},
        {"fence": 1, "request_id": {"$ne": 1}},
        {"fence": 1, "request_id": "r", "error": "x" * 2_001},
        [],
    ],
)
def test_questions_that_make_no_sense_are_refused(
    api_client: Client, alice: User, enrol: Callable[..., Worker], body: Any
) -> None:
    worker = enrol()
    submit(api_client(alice), checkpoint=True)
    jobs_dispatch()
    row = Dispatch.objects.get()
    speaking(worker).post(path(row, "claim"), {}, format="json")
    assert speaking(worker).post(path(row, "checkpoint"), body, format="json").status_code == 400
    assert not Snapshot.objects.exists()


def test_what_came_too_late_is_shown_on_that_attempt_in_the_api_and_in_the_console(
    api_client: Client, client: Any, alice: User, ops: User, enrol: Callable[..., Worker]
) -> None:
    from core.reasons import because
    from pool.services.dispatches import dispatch_withdraw

    worker = enrol()
    job_id = submit(api_client(alice)).json()["id"]
    jobs_dispatch()
    row = Dispatch.objects.get()
    agent = speaking(worker)
    agent.post(path(row, "claim"), {}, format="json")
    dispatch_withdraw(row, reason=because("lease_over", lease_s=90))
    late = {
        "fence": 1,
        "outcome": "failed",
        "exit_code": 7,
        "reason": "exited with code 7",
        "output_tail": "<b>the\x00 end</b>",
        "output_bytes": 100,
    }
    answer = agent.post(path(row, "finish"), late, format="json")
    assert (answer.status_code, answer.json()["code"]) == (409, "stand_down")
    [attempt] = api_client(alice).get(f"/api/jobs/{job_id}").json()["attempts"]
    kept = attempt["late"]
    assert kept.pop("at")
    assert kept == {
        "outcome": "failed",
        "exit_code": 7,
        "reason": "exited with code 7",
        "output_tail": "<b>the end</b>",
        "output_bytes": 100,
    }
    assert (attempt["status"], attempt["exit_code"]) == ("withdrawn", None)
    client.force_login(ops)
    page = client.get(reverse("admin:pool_job_change", args=[job_id])).content.decode()
    assert "failed, exit code 7" in page
    page = client.get(reverse("admin:pool_dispatch_change", args=[row.pk])).content.decode()
    assert "&lt;b&gt;the end&lt;/b&gt;" in page


def speaker(worker: Worker) -> Any:
    from core.agents import AgentIdentity

    return AgentIdentity(worker.pk, worker.epoch)
