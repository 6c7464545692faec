"""Sessions at Kaggle, terms and official quotas, over the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from pool.models import Account, NotebookStart, OfficialQuota, TermsAcknowledgement
from pool.terms import KAGGLE

Client = Callable[..., Any]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@pytest.fixture(autouse=True)
def reachable(settings: Any) -> None:
    settings.PUBLIC_URL = "https://pool.example.com"


@pytest.fixture
def account(api_client: Client, alice: User) -> Account:
    fields = {"kind": "kaggle", "label": "k", "credentials": {"api_token": "KGAT_0123456789"}}
    made = api_client(alice).post("/api/accounts", {**fields, "acknowledged_terms": KAGGLE.version})
    assert made.status_code == 201, made.json()
    return Account.objects.get(pk=made.json()["id"])


def test_account_shows_the_terms_and_takes_their_acknowledgement(api_client, alice):
    client = api_client(alice)
    made = client.post("/api/accounts", {"kind": "kaggle", "label": "k"}).json()
    terms = made["terms"]
    assert (terms["version"], terms["sentences"]) == (KAGGLE.version, KAGGLE.sentences)
    assert (terms["acknowledged_by"], terms["acknowledged_at"]) == (None, None)
    place = f"/api/accounts/{made['id']}"
    wrong = client.patch(place, {"acknowledged_terms": "2020-01-01", "label": "other"})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "terms_version")
    assert Account.objects.get().label == "k"
    refused = client.post("/api/enrollment-tokens", {"account": made["id"]})
    assert (refused.status_code, refused.json()["code"]) == (403, "terms_not_acknowledged")
    done = client.patch(place, {"acknowledged_terms": KAGGLE.version}).json()
    assert done["terms"]["acknowledged_by"] == "alice"
    assert client.post("/api/enrollment-tokens", {"account": made["id"]}).status_code == 201
    assert TermsAcknowledgement.objects.get().by == "alice"
    assert client.post("/api/accounts", {"kind": "local", "label": "l"}).json()["terms"] is None


def test_creation_with_a_wrong_version_makes_no_account(api_client, alice):
    body = {"kind": "kaggle", "label": "k", "acknowledged_terms": "x"}
    assert api_client(alice).post("/api/accounts", body).status_code == 400
    assert not Account.objects.exists()


def test_session_is_asked_for_and_looked_at_by_its_owner(api_client, alice, bob, account):
    client = api_client(alice)
    asked = client.post("/api/notebook-starts", {"account": account.pk, "name": "night"})
    assert asked.status_code == 202
    row = asked.json()
    assert (row["status"], row["name"], row["worker"], row["by"]) == ("pushing", "night", None, "alice")
    assert client.get(f"/api/notebook-starts/{row['id']}").json() == row
    assert client.get("/api/notebook-starts", {"status": "pushing"}).json()["count"] == 1
    other = api_client(bob)
    assert other.get("/api/notebook-starts").json()["count"] == 0
    assert other.get(f"/api/notebook-starts/{row['id']}").status_code == 404
    assert other.post("/api/notebook-starts", {"account": account.pk, "name": "x"}).status_code == 404
    assert api_client(alice, "read").post("/api/notebook-starts", {"account": account.pk}).status_code == 403
    again = client.post("/api/notebook-starts", {"account": account.pk, "name": "night"})
    assert (again.status_code, again.json()["code"]) == (409, "start_open")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://localhost:8000", "https://192.168.1.7"])
def test_session_that_could_not_reach_this_server_is_not_started(api_client, alice, account, settings, url):
    settings.PUBLIC_URL = url
    answer = api_client(alice).post("/api/notebook-starts", {"account": account.pk, "name": "night"})
    assert (answer.status_code, answer.json()["code"]) == (400, "not_reachable")
    assert f"its address is {url}" in answer.json()["message"]
    assert "set DORMOUSE_PUBLIC_URL" in answer.json()["hint"]
    assert not NotebookStart.objects.exists()


def test_session_that_is_not_wanted_any_more_is_taken_back_by_its_owner(api_client, alice, bob, account):
    client = api_client(alice)
    place = f"/api/notebook-starts/{client.post('/api/notebook-starts', {'account': account.pk, 'name': 'n'}).json()['id']}"
    assert api_client(bob).post(f"{place}/cancel", {}).status_code == 404
    assert api_client(alice, "read").post(f"{place}/cancel", {}).status_code == 403
    done = client.post(f"{place}/cancel", {})
    assert done.status_code == 200
    assert (done.json()["status"], done.json()["reason"]) == ("ended", "taken back by alice")
    assert client.get(place).json() == done.json()
    again = client.post(f"{place}/cancel", {})
    assert (again.status_code, again.json()["code"]) == (409, "transition_refused")


@pytest.mark.parametrize(
    "body", [{}, {"name": "x"}, {"name": "\x00"}, {"name": "x" * 200}, {"name": "x", "accelerator": "abacus"}]
)
def test_what_makes_no_sense_is_refused_with_the_reason(api_client, alice, account, body):
    wanted = {"account": account.pk, **body} if body != {"name": "x"} else body
    answer = api_client(alice).post("/api/notebook-starts", wanted)
    assert answer.status_code == 400 and answer.json()["message"]
    assert not NotebookStart.objects.exists()


def test_official_quota_stands_on_the_account(api_client, alice, account):
    client, place = api_client(alice), f"/api/accounts/{account.pk}"
    assert client.get(place).json()["official_quota"] is None
    now = timezone.now()
    figures = {"used_s": 45_000, "reserved_s": 0, "total_s": 108_000, "refresh_at": now}
    OfficialQuota.objects.create(account=account, read_at=now, tried_at=now, **figures)
    shown = client.get(place).json()["official_quota"]
    assert (shown["used_hours"], shown["reserved_hours"], shown["total_hours"]) == (12.5, 0, 30)


def test_page_of_accounts_costs_a_fixed_number_of_queries(
    api_client, alice, account, django_assert_max_num_queries
):
    client = api_client(alice)
    for number in range(8):
        client.post("/api/accounts", {"kind": "kaggle", "label": f"k{number}"})
    with django_assert_max_num_queries(6):
        client.get("/api/accounts")
