"""Alerts over the API and in the console: seen by those whose business they are, acknowledged by a confirmed POST."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from core.models import Alert, AlertPreference
from tests.core.alerts.conftest import Watch

ApiClient = Callable[..., APIClient]


@pytest.fixture
def fires(watch: Watch, alice: User, bob: User) -> dict[str, Alert]:
    """One of Alice's, one of Bob's, one that is nobody's."""
    everything = []
    for place, owner in (("attic", alice), ("cellar", bob), ("yard", None)):
        watch.says(place, owner=owner)
        everything += watch.wrong
    watch.wrong[:] = everything
    watch.look()
    return {alert.subject_id: alert for alert in Alert.objects.all()}


def places(answer: Any) -> set[str]:
    assert answer.status_code == 200, answer.content
    return {row["subject_id"] for row in answer.json()["results"]}


def test_everybody_sees_her_own_and_staff_all(
    api_client: ApiClient, fires: dict[str, Alert], alice: User, ops: User
) -> None:
    assert places(api_client(alice).get("/api/alerts")) == {"attic"}
    assert places(api_client(ops).get("/api/alerts")) == {"attic", "cellar", "yard"}
    assert api_client(alice).get(f"/api/alerts/{fires['cellar'].pk}").status_code == 404
    assert api_client().get("/api/alerts").status_code == 401


def test_an_alert_says_what_is_wrong_in_words(
    api_client: ApiClient, fires: dict[str, Alert], alice: User
) -> None:
    body = api_client(alice).get(f"/api/alerts/{fires['attic'].pk}").json()
    assert (body["message"], body["severity"], body["status"]) == ("fire in attic", "warning", "open")
    assert (body["cause"], body["owner"], body["resolved_at"]) == ("tests_fire", "alice", None)


def test_lists_are_filtered(api_client: ApiClient, fires: dict[str, Alert], watch: Watch, ops: User) -> None:
    watch.wrong[:] = watch.wrong[:1]
    watch.look(15)
    client = api_client(ops)
    assert places(client.get("/api/alerts?status=open")) == {"attic"}
    assert places(client.get("/api/alerts?status=resolved")) == {"cellar", "yard"}
    assert places(client.get("/api/alerts?status=resolved&status=open&severity=warning")) == set(fires)
    assert places(client.get("/api/alerts?cause=tests_smoke")) == set()
    assert places(client.get("/api/alerts?subject_type=room&subject_id=yard")) == {"yard"}
    assert client.get("/api/alerts?status=burning").status_code == 400


def test_it_is_acknowledged_with_a_word_why(
    api_client: ApiClient, fires: dict[str, Alert], alice: User, ops: User
) -> None:
    place = f"/api/alerts/{fires['attic'].pk}/acknowledge"
    assert api_client(alice, "read").post(place).status_code == 403
    body = api_client(alice).post(place, {"note": "on my way"}).json()
    assert (body["status"], body["acknowledged_by"]) == ("acknowledged", "alice")
    assert body["reason"] == "an operator decided so: on my way"
    assert api_client(ops).post(place).json()["acknowledged_by"] == "alice"
    other = f"/api/alerts/{fires['cellar'].pk}/acknowledge"
    assert api_client(alice).post(other).status_code == 404
    assert api_client(ops).post(other).status_code == 200


def test_what_is_over_cannot_be_acknowledged(
    api_client: ApiClient, fires: dict[str, Alert], watch: Watch, alice: User
) -> None:
    watch.wrong[:] = []
    watch.look(15)
    answer = api_client(alice).post(f"/api/alerts/{fires['attic'].pk}/acknowledge")
    assert (answer.status_code, answer.json()["code"]) == (409, "transition_refused")


def test_a_person_chooses_what_she_is_mailed(api_client: ApiClient, alice: User, bob: User) -> None:
    place = "/api/alerts/preferences"
    client = api_client(alice)
    assert client.get(place).json() == {"email": True, "least_severity": "warning"}
    assert not AlertPreference.objects.exists()
    assert client.put(place, {"email": False}).json() == {"email": False, "least_severity": "warning"}
    assert client.put(place, {"least_severity": "critical"}).json()["email"] is False
    assert client.put(place, {"least_severity": "loud"}).status_code == 400
    assert api_client(alice, "read").put(place, {"email": True}).status_code == 403
    assert api_client(bob).get(place).json()["email"] is True


@pytest.mark.parametrize(
    "body", [[], "x", 1, {"note": "\x00"}, {"note": []}, {"note": "x" * 300}, {"email": "\ud800"}]
)
def test_whatever_is_sent_is_refused_or_taken(
    api_client: ApiClient, fires: dict[str, Alert], alice: User, body: Any
) -> None:
    client = api_client(alice)
    client.raise_request_exception = False
    for method, place in (
        ("post", f"/api/alerts/{fires['attic'].pk}/acknowledge"),
        ("put", "/api/alerts/preferences"),
    ):
        answer = getattr(client, method)(place, data=json.dumps(body), content_type="application/json")
        assert answer.status_code < 500
    for query in ("?status=%00", "?cause=%00", "?subject_id=%ff", "?limit=x&offset=-1", "?severity=%F0"):
        assert client.get(f"/api/alerts{query}").status_code < 500


# -- console --------------------------------------------------------------------------------------------------------


@pytest.fixture
def console(ops: User) -> Client:
    client = Client()
    client.force_login(ops)
    return client


def test_the_list_and_the_page_say_what_is_wrong(console: Client, fires: dict[str, Alert], told: Any) -> None:
    for place in (
        reverse("admin:core_alert_changelist"),
        reverse("admin:core_alert_change", args=[fires["attic"].pk]),
    ):
        answer = console.get(place)
        assert answer.status_code == 200
        assert "fire in attic" in answer.content.decode()
    assert console.get(reverse("admin:core_alertdelivery_changelist")).status_code == 200


def test_acknowledging_is_a_confirmed_post(console: Client, fires: dict[str, Alert]) -> None:
    alert = fires["attic"]
    place = reverse("admin:core_alert_acknowledge", args=[alert.pk])
    assert b"<form" in console.get(place).content
    alert.refresh_from_db()
    assert alert.state == "open"
    console.post(place, {"_form_submitted": "true", "note": "seen"})
    alert.refresh_from_db()
    assert (alert.state, alert.acknowledged_by) == ("acknowledged", "ops")


def test_whoever_may_only_look_may_not_acknowledge(fires: dict[str, Alert]) -> None:
    looker = User.objects.create_user("looker", is_staff=True)
    looker.user_permissions.set(Permission.objects.filter(codename="view_alert"))
    client = Client()
    client.force_login(looker)
    assert client.get(reverse("admin:core_alert_changelist")).status_code == 200
    place = reverse("admin:core_alert_acknowledge", args=[fires["attic"].pk])
    assert client.post(place, {"_form_submitted": "true"}).status_code == 403
