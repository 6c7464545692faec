"""The routes for people: what each may see and do, and how it looks."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from rest_framework.test import APIClient

from agent import wire
from core.agents import AgentIdentity
from pool.models import Account, AccountWeek, Dispatch, EnrollmentToken, Job, Session, Worker
from pool.quota import WeekRule, week_start
from pool.services.accounts import account_create
from pool.services.jobs import jobs_dispatch
from pool.services.official import Official, official_take
from pool.services.reports import dispatch_claim, dispatch_finish, dispatch_log
from pool.services.workers import worker_create
from pool.terms import TERMS

Client = Callable[..., APIClient]
Enrol = Callable[..., Worker]


# -- accounts -----------------------------------------------------------------------------------------


def test_an_account_begins_with_the_limits_of_its_kind(api_client: Client, alice: User) -> None:
    answer = api_client(alice).post("/api/accounts", {"kind": "kaggle", "label": "mine"})
    assert answer.status_code == 201
    body = answer.json()
    assert (body["owner"], body["weekly_limit_h"], body["session_shutdown_h"]) == ("alice", 30, 8.5)
    assert (body["safe_percent"], body["reset_zone"], body["check_interval_s"]) == (70, "UTC", 60)
    assert body["credentials_state"] == "not set"


def test_credentials_go_in_and_never_come_out(api_client: Client, alice: User, ops: User) -> None:
    secret = "vast-0123456789abcdef3"
    client = api_client(alice)
    made = client.post("/api/accounts", {"kind": "vast", "label": "v", "credentials": {"api_key": secret}})
    place = f"/api/accounts/{made.json()['id']}"
    answers = [
        made,
        client.get(place),
        client.get("/api/accounts"),
        client.patch(place, {"label": "w"}),
        api_client(ops).get(place),
    ]
    for answer in answers:
        assert answer.status_code in (200, 201)
        assert secret not in answer.content.decode()
        assert "set, ends in …f3" in answer.content.decode()
    assert json.loads(Account.objects.get().credentials) == {"api_key": secret}
    assert client.patch(place, {"credentials": {}}).json()["credentials_state"] == "not set"


def test_short_secrets_are_not_even_hinted_at(api_client: Client, alice: User) -> None:
    body = {"kind": "vast", "label": "v", "credentials": {"api_key": "short"}}
    assert api_client(alice).post("/api/accounts", body).json()["credentials_state"] == "set"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"reset_zone": "Mars/Olympus"}, "not a time zone"),
        ({"session_limit_h": 5, "session_shutdown_h": 6}, "later than session_limit_h"),
        ({"weekly_limit_h": -1}, "above 0"),
        ({"weekly_limit_h": "nan"}, "number"),
        ({"safe_percent": 500}, "safe_percent"),
        ({"check_interval_s": 1e300}, "check_interval_s"),
        ({"kind": "colab"}, "stays of its kind"),
        ({"label": "taken"}, "already"),
        ({"credentials": ["x"]}, "credentials"),
    ],
)
def test_a_wrong_account_is_refused_and_says_what_is_wrong(
    api_client: Client, alice: User, change: dict[str, Any], why: str
) -> None:
    account_create(owner=alice, kind="kaggle", label="taken")
    mine = account_create(owner=alice, kind="kaggle", label="mine")
    answer = api_client(alice).patch(f"/api/accounts/{mine.pk}", change)
    assert answer.status_code == 400
    assert why in answer.json()["message"]


def test_another_owners_account_is_not_there(
    api_client: Client, bob: User, ops: User, account: Account
) -> None:
    place = f"/api/accounts/{account.pk}"
    theirs = api_client(bob)
    assert theirs.get("/api/accounts").json()["count"] == 0
    for answer in (theirs.get(place), theirs.patch(place, {"label": "x"}), theirs.delete(place)):
        assert answer.status_code == 404
    assert api_client(ops).get(place).status_code == 200


def test_an_account_that_is_in_use_cannot_be_deleted(
    api_client: Client, alice: User, account: Account, enrol: Enrol
) -> None:
    enrol()
    answer = api_client(alice).delete(f"/api/accounts/{account.pk}")
    assert (answer.status_code, answer.json()["code"]) == (409, "account_in_use")
    unused = account_create(owner=alice, kind="vast", label="v")
    assert api_client(alice).delete(f"/api/accounts/{unused.pk}").status_code == 204


# -- join tokens --------------------------------------------------------------------------------------


def test_a_join_token_is_issued_for_ones_own_account_only(
    api_client: Client, alice: User, bob: User, account: Account
) -> None:
    answer = api_client(alice).post("/api/enrollment-tokens", {"account": account.pk, "uses": 2})
    assert answer.status_code == 201
    token = answer.json()["token"]
    assert token in answer.json()["command"]
    row = EnrollmentToken.objects.get()
    assert (row.uses_left, row.created_by) == (2, "alice")
    assert api_client().post(wire.ENROLL, {"token": token}).status_code == 200
    assert api_client(bob).post("/api/enrollment-tokens", {"account": account.pk}).status_code == 404


def test_the_command_prints_tokens_for_a_launcher(api_client: Client, ops: User, alice: User) -> None:
    def run(*words: str) -> str:
        out = io.StringIO()
        call_command("enrollment_token", *words, stdout=out)
        return out.getvalue()

    tokens = json.loads(run("--count", "3", "--json"))
    assert len(set(tokens)) == 3
    assert Account.objects.get().owner == ops
    words = ("--kind", "colab", "--label", "demo", "--owner", "alice", "--uses", "2")
    with pytest.raises(CommandError, match="--create"):
        run(*words)
    with pytest.raises(CommandError, match="nobody has acknowledged yet"):
        run(*words, "--create")
    token = run(*words, "--acknowledge-terms", TERMS["colab"].version).strip()
    for _ in range(2):
        assert api_client().post(wire.ENROLL, {"token": token}).status_code == 200
    assert set(Worker.objects.values_list("account__kind", flat=True)) == {"colab"}
    with pytest.raises(CommandError, match="no user 'eve'"):
        run("--owner", "eve")


# -- workers ------------------------------------------------------------------------------------------


def test_a_worker_is_shown_with_its_quota_and_session(api_client: Client, alice: User, enrol: Enrol) -> None:
    colab = account_create(owner=alice, kind="colab", label="c")
    worker = enrol("1", into=colab)
    Session.objects.filter(worker=worker).update(runtime_s=10.8 * 3600)
    body = api_client(alice).get(f"/api/workers/{worker.pk}").json()
    assert (body["name"], body["status"], body["provider"]) == ("1", "online", "colab")
    assert body["quota"] == {
        "model": "session",
        "used": 10.8,
        "limit": 11.5,
        "percent": pytest.approx(93.9, abs=0.1),
        "safe": False,
        "hours_left": pytest.approx(0.7),
        "estimated_hours": 0,
        "reason": "near its limit: session 10.80 h of 11.5 h (93.9 %)",
    }
    assert body["session"]["runtime_hours"] == 10.8
    assert body["account"] == {"id": colab.pk, "kind": "colab", "label": "c"}


def test_everybody_sees_the_shared_pool_and_nobody_a_strangers_box(
    api_client: Client, alice: User, bob: User, ops: User, account: Account, enrol: Enrol
) -> None:
    shared = enrol("shared")
    box = worker_create(account=account, name="i_1", instance_ref="i_1", owner=alice)

    def seen(person: User) -> set[str]:
        return {row["id"] for row in api_client(person).get("/api/workers").json()["results"]}

    assert seen(bob) == {shared.pk}
    assert seen(alice) == seen(ops) == {shared.pk, box.pk}
    assert api_client(bob).get(f"/api/workers/{box.pk}").status_code == 404
    assert api_client(bob).post(f"/api/workers/{box.pk}/drain").status_code == 404
    assert api_client().get("/api/workers").status_code == 401


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("status=offline", {"b"}),
        ("provider=colab", {"c"}),
        ("provider=local&status=online", {"a"}),
        ("instance=i_9", set()),
    ],
)
def test_workers_are_filtered(
    api_client: Client, alice: User, enrol: Enrol, query: str, names: set[str]
) -> None:
    enrol("a")
    enrol("b", online=False)
    enrol("c", into=account_create(owner=alice, kind="colab", label="c"))
    got = api_client(alice).get(f"/api/workers?{query}").json()["results"]
    assert {row["name"] for row in got} == names
    assert api_client(alice).get("/api/workers?status=asleep").status_code == 400


def test_a_list_of_workers_costs_a_fixed_number_of_queries(
    api_client: Client, alice: User, enrol: Enrol, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    client = api_client(alice)
    for number in range(20):
        enrol(f"w{number}")
    with django_assert_max_num_queries(8):
        assert client.get("/api/workers").json()["count"] == 20


def test_a_worker_is_drained_by_its_owner_or_an_operator(
    api_client: Client, alice: User, bob: User, ops: User, enrol: Enrol
) -> None:
    worker = enrol()
    place = f"/api/workers/{worker.pk}"
    assert api_client(bob).post(f"{place}/drain").status_code == 403
    assert api_client(alice, "read").post(f"{place}/drain").status_code == 403
    body = api_client(alice).post(f"{place}/drain", {"note": "new cooler"}).json()
    assert (body["status"], body["reason"]) == ("draining", "an operator decided so: new cooler")
    assert api_client(ops).post(f"{place}/undrain").json()["status"] == "online"
    assert api_client(alice).post(f"{place}/revoke").json()["status"] == "revoked"
    assert api_client(alice).post(f"{place}/drain").status_code == 409


# -- jobs ---------------------------------------------------------------------------------------------


def submit(client: APIClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/api/jobs", {"command": ["python", "x.py"], **body})
    assert answer.status_code == 201, answer.json()
    return answer.json()


def run_job(job_id: str) -> tuple[AgentIdentity, Dispatch]:
    jobs_dispatch()
    row = Dispatch.objects.get(job=job_id, state="rung")
    identity = AgentIdentity(worker_id=row.worker_id, epoch=row.epoch)
    dispatch_claim(identity=identity, dispatch_id=row.pk)
    row.refresh_from_db()
    return identity, row


def test_a_job_is_submitted_watched_and_ended(api_client: Client, alice: User, enrol: Enrol) -> None:
    worker = enrol("w")
    client = api_client(alice)
    made = submit(client, name="train", env={"TOKEN": "hush"}, timeout_s=60)
    assert (made["status"], made["worker"], made["env_names"]) == ("queued", None, ["TOKEN"])
    identity, row = run_job(made["id"])
    post = wire.LogPost.of(fence=row.fence, offset=0, raw="é\n".encode())
    dispatch_log(identity=identity, dispatch_id=row.pk, post=post)
    dispatch_finish(
        identity=identity,
        dispatch_id=row.pk,
        post=wire.FinishPost(fence=row.fence, outcome="failed", exit_code=2),
    )
    body = client.get(f"/api/jobs/{made['id']}").json()
    assert (body["status"], body["reason"], body["exit_code"]) == ("failed", "exit code 2", 2)
    assert body["worker"] == {"id": worker.pk, "name": "w", "provider": "local"}
    assert [one["status"] for one in body["attempts"]] == ["failed"]
    assert "hush" not in json.dumps(body)
    logs = client.get(f"/api/jobs/{made['id']}/logs").json()
    assert logs == {"attempt": 1, "offset": 0, "data": "é\n", "next_offset": 3, "done": True}


def test_output_is_read_on_from_an_offset_and_never_cuts_a_character(
    api_client: Client, alice: User, enrol: Enrol
) -> None:
    enrol()
    client = api_client(alice)
    made = submit(client)
    place = f"/api/jobs/{made['id']}/logs"
    assert client.get(place).json() == {
        "attempt": 0,
        "offset": 0,
        "data": "",
        "next_offset": 0,
        "done": False,
    }
    identity, row = run_job(made["id"])
    text = "aé".encode()

    def send(offset: int, raw: bytes) -> None:
        post = wire.LogPost.of(fence=row.fence, offset=offset, raw=raw)
        dispatch_log(identity=identity, dispatch_id=row.pk, post=post)

    send(0, text[:2])
    first = client.get(place).json()
    assert (first["data"], first["next_offset"], first["done"]) == ("a", 1, False)
    send(2, text[2:] + b"\xff")
    second = client.get(place, {"offset": first["next_offset"]}).json()
    assert (second["data"], second["next_offset"]) == ("é\ufffd", 4)
    assert client.get(place, {"offset": 99}).json()["data"] == ""
    assert client.get(place, {"offset": "x"}).status_code == 400
    assert client.get(place, {"attempt": 7}).status_code == 404


def test_a_job_that_can_never_run_is_refused(api_client: Client, alice: User, account: Account) -> None:
    answer = api_client(alice).post("/api/jobs", {"command": ["a"], "script": "b"})
    assert answer.status_code == 400
    assert answer.json()["message"] == "give a command or a script, one of the two"
    answer = api_client(alice).post("/api/jobs", {"command": ["a"], "timeout_s": "nan"})
    assert answer.status_code == 400
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("place", "body", "field", "said"),
    [
        ("/api/jobs", {"command": ["true"], "timeout": 60}, "timeout", "did you mean timeout_s?"),
        ("/api/jobs", {"command": ["true"], "zzz": 1}, "zzz", "there are name, command, script, env, "),
        (
            "/api/accounts",
            {"kind": "kaggle", "label": "k", "safe_procent": 60},
            "safe_procent",
            "safe_percent?",
        ),
        ("/api/enrollment-tokens", {"account": "acc_1", "use": 3}, "use", "did you mean uses?"),
    ],
)
def test_a_misspelt_field_is_refused_and_not_passed_over(
    api_client: Client, ops: User, place: str, body: dict[str, Any], field: str, said: str
) -> None:
    answer = api_client(ops).post(place, body)
    assert answer.status_code == 400
    assert list(answer.json()["fields"]) == [field]
    assert said in answer.json()["message"]
    assert not Job.objects.exists() and not Account.objects.exists()


@pytest.mark.parametrize(
    ("method", "body", "content_type", "status", "what_to_do"),
    [
        ("post", "{bad", "application/json", 400, "send the body as JSON"),
        ("post", "a=1", "text/plain", 415, "send the body as JSON"),
        ("delete", "", "application/json", 405, "/api/docs/ lists the methods"),
    ],
)
def test_a_request_that_cannot_be_read_is_told_what_to_do(
    api_client: Client, alice: User, method: str, body: str, content_type: str, status: int, what_to_do: str
) -> None:
    answer = api_client(alice).generic(method.upper(), "/api/jobs", body, content_type=content_type)
    assert answer.status_code == status
    assert what_to_do in answer.json()["hint"]


def test_an_account_may_be_sent_back_as_it_was_read(api_client: Client, alice: User) -> None:
    client = api_client(alice)
    read = client.post("/api/accounts", {"kind": "kaggle", "label": "mine"}).json()
    answer = client.patch(f"/api/accounts/{read['id']}", {**read, "label": "ours"})
    assert answer.status_code == 200
    assert (answer.json()["label"], answer.json()["id"]) == ("ours", read["id"])


def test_another_owners_job_is_not_there(api_client: Client, alice: User, bob: User, ops: User) -> None:
    made = submit(api_client(alice))
    place = f"/api/jobs/{made['id']}"
    theirs = api_client(bob)
    assert theirs.get("/api/jobs").json()["count"] == 0
    for answer in (theirs.get(place), theirs.get(f"{place}/logs"), theirs.post(f"{place}/cancel")):
        assert answer.status_code == 404
    assert api_client(ops).get("/api/jobs").json()["count"] == 1
    assert Job.objects.get().state == "queued"


def test_a_job_is_cancelled_once(api_client: Client, alice: User) -> None:
    client = api_client(alice)
    place = f"/api/jobs/{submit(client)['id']}/cancel"
    body = client.post(place).json()
    assert (body["status"], body["reason"]) == ("cancelled", "cancelled by alice")
    assert client.post(place).status_code == 200
    Job.objects.update(state="succeeded")
    answer = client.post(place)
    assert (answer.status_code, answer.json()["code"]) == (409, "transition_refused")


def test_jobs_are_filtered_and_paged(
    api_client: Client, alice: User, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    client = api_client(alice)
    for number in range(3):
        submit(client, name=f"train-{number}")
    Job.objects.filter(name="train-0").update(state="cancelled")
    assert client.get("/api/jobs?status=cancelled").json()["count"] == 1
    assert client.get("/api/jobs?status=cancelled&status=queued").json()["count"] == 3
    assert client.get("/api/jobs?name=in-2").json()["count"] == 1
    with django_assert_max_num_queries(8):
        page = client.get("/api/jobs?limit=2").json()
    assert (page["count"], len(page["results"])) == (3, 2)


# -- the pool -----------------------------------------------------------------------------------------


def test_the_pool_at_a_glance(
    api_client: Client, alice: User, bob: User, account: Account, enrol: Enrol
) -> None:
    now = timezone.now()
    colab = account_create(owner=alice, kind="colab", label="c")
    kaggle = account_create(owner=alice, kind="kaggle", label="k")
    for number in range(11):
        worker = enrol(f"on{number}", into=colab, now=now)
        Session.objects.filter(worker=worker).update(runtime_s=(11 if number < 2 else 1.5) * 3600)
    for number in range(3):
        enrol(f"off{number}", into=kaggle, online=False, now=now)
    worker_create(account=account, name="i_1", instance_ref="i_1", owner=alice)
    AccountWeek.objects.create(account=kaggle, starts_at=week_start(now, WeekRule()), used_s=18 * 3600)
    submit(api_client(alice))
    body = api_client(bob).get("/api/pool/status").json()
    assert (body["workers"], body["online"], round(body["online_percent"]), body["safe"]) == (14, 11, 79, 9)
    assert body["hours_left"] == pytest.approx(2 * 0.5 + 9 * 10 + 12)
    assert [one["provider"] for one in body["providers"]] == ["colab", "kaggle"]
    (week,) = body["weeks"]
    assert (week["used_hours"], week["limit_hours"], week["percent"]) == (18, 30, 60)
    assert (week["own_hours"], week["estimated_hours"], week["official_hours"]) == (18, 0, None)
    assert body["jobs"] == {"deferred": 0, "queued": 1, "dispatched": 0, "running": 0}


def test_what_the_provider_said_and_how_far_it_was_off_is_shown(
    api_client: Client, alice: User, enrol: Enrol
) -> None:
    now = timezone.now()
    kaggle = account_create(owner=alice, kind="kaggle", label="k")
    enrol("w", into=kaggle, online=False, now=now)
    AccountWeek.objects.create(account=kaggle, starts_at=week_start(now, WeekRule()), used_s=18 * 3600)
    official_take(account=kaggle, said=Official(used_s=20.5 * 3600, reserved_s=0), at=now)
    (week,) = api_client(alice).get("/api/pool/status").json()["weeks"]
    assert (week["used_hours"], week["own_hours"], week["official_hours"]) == (20.5, 18, 20.5)
    assert week["difference_hours"] == pytest.approx(2.5)
    assert parse_datetime(week["official_at"]) == now


def test_an_unlimited_pool_has_no_figure_for_hours(api_client: Client, alice: User, enrol: Enrol) -> None:
    enrol()
    body = api_client(alice).get("/api/pool/status").json()
    assert body["providers"][0]["hours_left"] is None
    assert body["hours_left"] is None


def test_everything_still_answers_without_the_broker(
    api_client: Client, alice: User, enrol: Enrol, valkey: Any
) -> None:
    enrol()
    client = api_client(alice)
    valkey.kill()
    assert client.get("/api/workers").status_code == 200
    assert submit(client)["status"] == "queued"
    assert (timezone.now() - Job.objects.get().queued_at) < timedelta(minutes=1)
