"""Jobs over the API: everything that a request may ask for, and what is answered."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from agent import wire
from core.agents import AgentIdentity, access_token
from pool.models import Account, Dispatch, Job, JobArray, JobFile, Worker
from pool.services.jobs import jobs_dispatch
from pool.services.reports import dispatch_claim, dispatch_finish
from pool.services.specs import artifacts_prefix

Client = Callable[..., APIClient]
Enrol = Callable[..., Worker]


@pytest.fixture
def worker(enrol: Enrol) -> Worker:
    return enrol("w", slots=4, now=timezone.now())


def claimed(job_id: str) -> tuple[Dispatch, APIClient, dict[str, Any]]:
    """The job on its worker, whose agent's client comes with it, and the work that it got."""
    jobs_dispatch(now=timezone.now())
    row = Job.objects.get(pk=job_id).attempts.order_by("number").last()
    assert row is not None
    identity = AgentIdentity(worker_id=row.worker_id, epoch=row.epoch)
    work = dispatch_claim(identity=identity, dispatch_id=row.pk).work
    row.refresh_from_db()
    client = APIClient()
    token = access_token(worker_id=row.worker_id, epoch=row.epoch, now=timezone.now())
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    return row, client, dict(work)


def ended(row: Dispatch, outcome: str = "succeeded", exit_code: int = 0, **fields: Any) -> None:
    post = wire.FinishPost(fence=row.fence, outcome=outcome, exit_code=exit_code, **fields)
    identity = AgentIdentity(worker_id=row.worker_id, epoch=row.epoch)
    dispatch_finish(identity=identity, dispatch_id=row.pk, post=post)


def leaves(row: Dispatch, agent: APIClient, path: str, *pieces: bytes) -> None:
    """As the agent does it, over HTTP."""
    wishes = [
        {
            "key": artifacts_prefix(row) + (d := hashlib.sha256(data).hexdigest()),
            "length": len(data),
            "sha256": d,
        }
        for data in pieces
    ]
    signed = agent.post(wire.dispatch_path(row.pk, "objects"), {"fence": row.fence, "put": wishes}).json()[
        "put"
    ]
    for one, data in zip(signed, pieces, strict=True):
        answer = APIClient().put(one["url"], data, content_type="application/octet-stream")
        assert answer.status_code < 300, answer.content
    whole = b"".join(pieces)
    file = {"path": path, "mode": 0o644, "length": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
    body = {"fence": row.fence, "artifacts": [{**file, "pieces": wishes}]}
    answer = agent.post(wire.dispatch_path(row.pk, "artifacts"), body)
    assert answer.status_code == 200, answer.content


def test_everything_that_a_request_may_ask_for(api_client: Client, alice: User, worker: Worker) -> None:
    client = api_client(alice)
    first = client.post("/api/jobs", {"command": ["true"], "artifacts": ["out/**/*.pt"]}).json()["id"]
    body = {
        "script": "python x.py",
        "workdir": "project",
        "files": [
            {"path": "x.py", "text": "print(1)\n", "mode": "755"},
            {"path": "b.bin", "base64": base64.b64encode(b"\x00\xff").decode()},
            {"path": "m.pt", "from": {"job": first, "artifact": "out/a/m.pt"}},
        ],
        "artifacts": ["*.json"],
        "retry": {"exit_codes": [1, 75], "max_retries": 2, "backoff_s": 5},
        "after": [first],
        "after_policy": "ended",
    }
    answer = client.post("/api/jobs", body)
    assert answer.status_code == 201, answer.content
    made = answer.json()
    assert (made["status"], made["reason"]) == ("deferred", f"waits for {first} to have ended")
    assert made["remedy"].startswith("it is queued when")
    assert made["files"] == [
        {"path": "x.py", "mode": "755", "bytes": 9, "source": ""},
        {"path": "b.bin", "mode": "644", "bytes": 2, "source": ""},
        {"path": "m.pt", "mode": "644", "bytes": 0, "source": f"{first}/out/a/m.pt"},
    ]
    assert made["retry"] == {
        "exit_codes": [1, 75],
        "max_retries": 2,
        "backoff_s": 5,
        "backoff_factor": 2,
        "max_backoff_s": 600,
    }
    shown = {
        name: made[name]
        for name in ("workdir", "artifacts", "after", "after_policy", "queued_until", "array")
    }
    assert shown == {
        "workdir": "project",
        "artifacts": ["*.json"],
        "after": [first],
        "after_policy": "ended",
        "queued_until": None,
        "array": None,
    }
    assert bytes(JobFile.objects.get(path="b.bin").data) == b"\x00\xff"
    row, _, _ = claimed(first)
    ended(row)
    _, _, work = claimed(made["id"])
    assert (work["workdir"], work["files"], [*work["artifacts"]["globs"]]) == ("project", 3, ["*.json"])
    assert work["script"] == "python x.py"


def test_a_job_that_is_tried_again_shows_until_when_it_waits(
    api_client: Client, alice: User, worker: Worker
) -> None:
    client = api_client(alice)
    job = client.post(
        "/api/jobs", {"command": ["x"], "retry": {"exit_codes": "any", "backoff_s": 100}}
    ).json()
    row, _, _ = claimed(job["id"])
    ended(row, "failed", 9)
    shown = client.get(f"/api/jobs/{job['id']}").json()
    assert (shown["status"], shown["retries"]) == ("deferred", 1)
    assert shown["reason"].startswith("exit code 9; retry 1 of 3 at ") and shown["queued_until"]
    assert client.get("/api/jobs?status=deferred").json()["count"] == 1


# -- arrays -------------------------------------------------------------------------------------------


def test_an_array_is_listed_and_cancelled_together(
    api_client: Client, alice: User, bob: User, account: Account
) -> None:
    client = api_client(alice)
    answer = client.post("/api/jobs", {"command": ["x"], "count": 20, "name": "sweep"})
    assert answer.status_code == 201, answer.content
    made = answer.json()
    assert (made["name"], made["count"], made["statuses"]) == ("sweep", 20, {"queued": 20})
    jobs = client.get(f"/api/jobs?array={made['id']}&limit=50").json()
    assert jobs["count"] == 20 and {job["array_index"] for job in jobs["results"]} == set(range(20))
    assert client.get(f"/api/jobs/{jobs['results'][0]['id']}").json()["command"] == ["x"]
    place = f"/api/job-arrays/{made['id']}"
    assert client.get("/api/job-arrays").json()["results"][0]["id"] == made["id"]
    for answer in (api_client(bob).get(place), api_client(bob).post(f"{place}/cancel")):
        assert answer.status_code == 404
    assert client.post(f"{place}/cancel").json()["statuses"] == {"cancelled": 20}
    assert client.get(place).json()["statuses"] == {"cancelled": 20}


def test_listing_an_arrays_jobs_takes_no_query_for_each(
    api_client: Client, alice: User, account: Account, django_assert_max_num_queries: Any
) -> None:
    client = api_client(alice)
    made = client.post("/api/jobs", {"command": ["x"], "count": 40}).json()
    with django_assert_max_num_queries(12):
        assert len(client.get(f"/api/jobs?array={made['id']}&limit=50").json()["results"]) == 40


# -- refused, warned, once ----------------------------------------------------------------------------


def test_each_wrong_field_is_named_with_code_message_and_hint(
    api_client: Client, alice: User, account: Account
) -> None:
    body = {"command": [], "timeout_s": -1, "provider": "kaggle", "files": [{"path": "../x", "text": ""}]}
    answer = api_client(alice).post("/api/jobs", body)
    assert answer.status_code == 400
    said = answer.json()
    assert {"code", "message", "hint"} <= set(said) and said["code"] == "invalid"
    assert [one["field"] for one in said["errors"]] == ["command", "timeout_s", "files"]
    assert all({"field", "code", "message", "hint"} == set(one) for one in said["errors"])
    answer = api_client(alice).post("/api/jobs", {"command": ["x"], "provider": "kaggle"}).json()
    assert (
        answer["errors"][0]["code"] == "never" and answer["hint"] == "leave provider out, or add an account"
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"files": [{"path": "x"}]}, "files"),
        ({"files": [{"path": "x", "text": "a", "base64": "YQ=="}]}, "files"),
        ({"files": [{"path": "x", "base64": "?"}]}, "files"),
        ({"files": [{"path": "x", "text": "a", "mode": "999"}]}, "files"),
        ({"files": "x"}, "files"),
        ({"retry": {"exit_codes": "some"}}, "retry"),
        ({"retry": {"exit_codes": [True]}}, "retry"),
        ({"retry": {"backoff_s": 1e300}}, "retry"),
        ({"count": "x"}, "count"),
        ({"after": "j_1"}, "after"),
        ({"after_policy": "never"}, "after_policy"),
    ],
)
def test_a_wrong_part_is_refused_by_its_field(
    api_client: Client, alice: User, body: dict[str, Any], field: str
) -> None:
    answer = api_client(alice).post("/api/jobs", {"command": ["x"], **body})
    assert answer.status_code == 400, answer.content
    assert answer.json()["errors"][0]["field"].startswith(field)
    assert not Job.objects.exists()


def test_inline_files_are_bounded_and_the_error_says_what_to_do_instead(
    api_client: Client, alice: User
) -> None:
    body = {"command": ["x"], "files": [{"path": "x", "text": "a" * (1024 * 1024 + 1)}]}
    said = api_client(alice).post("/api/jobs", body).json()
    assert "at most 1048576 are taken" in said["message"] and "`from`" in said["hint"]


def test_all_that_a_job_may_bring_fits_into_a_request_and_more_is_refused_in_the_apis_own_words(
    api_client: Client, alice: User, worker: Worker
) -> None:
    client = api_client(alice)
    body = {
        "script": "#\n" * (128 * 1024),
        "env": {"A": "\n" * 130_000, "B": "\n" * 130_000},
        "files": [{"path": "x", "base64": base64.b64encode(bytes(1024 * 1024)).decode()}],
    }
    answer = client.post("/api/jobs", body)
    assert answer.status_code == 201, answer.content
    body["files"] = [{"path": "x", "base64": base64.b64encode(bytes(3 * 1024 * 1024)).decode()}]
    answer = client.post("/api/jobs", body)
    said = answer.json()
    assert (answer.status_code, said["code"]) == (413, "body_too_large")
    assert "at most 4194304 bytes" in said["message"] and "named in `from`" in said["hint"]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"command": ["x", "a" * 131_072]}, "command"),
        ({"command": ["x"], "env": {"A": "a" * 131_070}}, "env"),
    ],
)
def test_what_no_program_can_be_started_with_is_refused_at_once(
    api_client: Client, alice: User, worker: Worker, asked: dict[str, Any], field: str
) -> None:
    answer = api_client(alice).post("/api/jobs", asked)
    assert answer.status_code == 400
    [error] = answer.json()["errors"]
    assert (error["field"], error["code"]) == (field, "too_large") and "`files`" in error["hint"]
    fits = {"command": ["x", "a" * 131_071], "env": {"A": "a" * 131_069}}
    assert api_client(alice).post("/api/jobs", fits).status_code == 201


def test_a_list_of_jobs_leaves_out_what_they_run_and_does_not_read_it(
    api_client: Client, alice: User, worker: Worker
) -> None:
    client = api_client(alice)
    single = client.post("/api/jobs", {"script": "echo what it runs", "env": {"A": "x"}}).json()["id"]
    client.post("/api/jobs", {"command": ["true"], "count": 2})
    with CaptureQueriesContext(connection) as queries:
        rows = client.get("/api/jobs").json()["results"]
    assert len(rows) == 3 and not {"script", "command", "env_names"} & set(rows[0])
    assert not [one["sql"] for one in queries if '"script"' in one["sql"]], "it is not read either"
    whole = client.get(f"/api/jobs/{single}").json()
    assert (whole["script"], whole["env_names"]) == ("echo what it runs", ["A"])


def test_the_pool_counts_the_jobs_that_wait_for_others(
    api_client: Client, alice: User, worker: Worker
) -> None:
    client = api_client(alice)
    first = client.post("/api/jobs", {"command": ["true"]}).json()["id"]
    client.post("/api/jobs", {"command": ["true"], "after": [first]})
    found = client.get("/api/pool/status").json()["jobs"]
    assert (found["deferred"], found["queued"]) == (1, 1)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"gpu_mem_bytes": 80 * 1024**3}, "no_worker_with_memory"),
        ({"labels": {"gpu": "a100"}}, "no_worker_with_labels"),
        ({}, None),
    ],
)
def test_what_no_worker_has_yet_is_taken_with_a_warning(
    api_client: Client, alice: User, worker: Worker, asked: dict[str, Any], code: str | None
) -> None:
    answer = api_client(alice).post("/api/jobs", {"command": ["x"], **asked})
    assert answer.status_code == 201
    assert [one["code"] for one in answer.json()["warnings"]] == ([code] if code else [])
    assert all(one["hint"] for one in answer.json()["warnings"])


def test_the_same_idempotency_key_makes_one_job(api_client: Client, alice: User, account: Account) -> None:
    client = api_client(alice)
    body = {"command": ["x"], "env": {"B": "1", "A": "2"}}
    answers = [client.post("/api/jobs", body, headers={"Idempotency-Key": "k-1"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    other = client.post("/api/jobs", {**body, "name": "other"}, headers={"Idempotency-Key": "k-1"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    bad = client.post("/api/jobs", body, headers={"Idempotency-Key": "x" * 201})
    assert bad.status_code == 400 and "Idempotency-Key" in bad.json()["message"]
    array = [
        client.post("/api/jobs", {**body, "count": 3}, headers={"Idempotency-Key": "k-2"}).json()["id"]
        for _ in "ab"
    ]
    assert array[0] == array[1]
    assert (Job.objects.count(), JobArray.objects.count()) == (4, 1)


# -- artifacts ----------------------------------------------------------------------------------------


def content(client: APIClient, place: str) -> bytes:
    answer = client.get(place)
    if answer.status_code == 302:
        answer = APIClient().get(answer["Location"])
    assert answer.status_code == 200, answer.content
    return b"".join(answer.streaming_content)


def test_artifacts_are_listed_and_fetched_by_their_owner_alone(
    api_client: Client, alice: User, bob: User, ops: User, worker: Worker
) -> None:
    client = api_client(alice)
    job = client.post("/api/jobs", {"command": ["x"], "artifacts": ["out/**"]}).json()["id"]
    place = f"/api/jobs/{job}/artifacts"
    nothing = client.get(place).json()
    assert (nothing["attempt"], nothing["count"], nothing["results"]) == (0, 0, [])
    assert client.get(f"{place}/out/a").status_code == 404
    row, agent, _ = claimed(job)
    leaves(row, agent, "out/a b ü.txt", b"one object")
    leaves(row, agent, "out/big", b"two ", b"objects")
    leaves(row, agent, "out/empty")
    some = [{"path": "out/huge", "why": "it is too large"}]
    ended(row, result={"artifacts": {"left_out": some, "left_out_count": 1}})
    page = client.get(place).json()
    assert (page["attempt"], page["count"], page["gone"]) == (1, 3, False)
    assert (page["left_out_count"], page["left_out"]) == (1, some)
    assert page["kept_until"] > (timezone.now() + timedelta(days=29)).isoformat()
    by_path = {one["path"]: one for one in page["results"]}
    assert by_path["out/big"]["bytes"] == 11
    assert by_path["out/big"]["sha256"] == hashlib.sha256(b"two objects").hexdigest()
    assert content(APIClient(), by_path["out/a b ü.txt"]["url"]) == b"one object"
    assert content(client, by_path["out/big"]["url"]) == b"two objects"
    assert content(client, f"{place}/out/a b ü.txt") == b"one object"
    assert content(client, f"{place}/out/empty") == b""
    assert client.get(f"{place}?limit=1").json()["next"]
    assert content(api_client(ops), f"{place}/out/big") == b"two objects"
    for path in (place, f"{place}/out/big", f"{place}/nothing"):
        assert api_client(bob).get(path).status_code == 404
        assert api_client().get(path).status_code == 401
    assert client.get(f"{place}/nothing").status_code == 404
    assert client.get(f"{place}?attempt=7").status_code == 404


def test_a_worker_reaches_no_files_but_its_jobs_own(
    api_client: Client, alice: User, bob: User, worker: Worker, enrol: Enrol
) -> None:
    hers = api_client(alice).post("/api/jobs", {"command": ["x"], "artifacts": ["*"]}).json()["id"]
    row, agent, _ = claimed(hers)
    leaves(row, agent, "a", b"hers")
    key = artifacts_prefix(row) + hashlib.sha256(b"hers").hexdigest()
    his = api_client(bob).post("/api/jobs", {"command": ["x"]}).json()["id"]
    other, his_agent, _ = claimed(his)
    answer = his_agent.post(wire.dispatch_path(other.pk, "objects"), {"fence": other.fence, "get": [key]})
    assert answer.status_code == 400 and "nothing that this job is given" in answer.json()["message"]
    for verb in ("files", "objects", "artifacts"):
        body = {"fence": row.fence, "artifacts": []}
        assert APIClient().post(wire.dispatch_path(row.pk, verb), body).status_code == 401
        answer = agent.post(wire.dispatch_path(row.pk, verb), {**body, "fence": 9})
        assert (answer.status_code, answer.json()["code"]) == (409, "stand_down")
