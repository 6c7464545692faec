"""The console's pages that every app stands on: events, chains, people, tokens, ticks."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import PeriodicTask

from config.schedule import schedule_upsert
from core.models import ApiToken, Event
from core.reasons import because
from tests.core.conftest import NOON, Story

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("ops"))
    return client


def opens(console: Client, model: str, pk: Any = None) -> str:
    verb, args = ("changelist", []) if pk is None else ("change", [pk])
    answer = console.get(reverse(f"admin:{model}_{verb}", args=args))
    assert answer.status_code == 200
    return answer.content.decode()


def test_every_action_of_every_page_asks_before_it_acts() -> None:
    """A plain action of this console's theme runs on GET: a link could stop a machine."""
    checked = 0
    for model, page in admin.site._registry.items():
        for name in ("actions_list", "actions_row", "actions_detail"):
            for action in page._extract_action_names(getattr(page, name, ())):
                assert page.get_unfold_action(action).dialog, f"{model.__name__}.{action} has no dialog"
                checked += 1
        assert not getattr(page, "actions_submit_line", ())
    assert checked > 5


def test_every_page_has_the_consoles_look() -> None:
    from unfold.admin import ModelAdmin

    foreign = [
        model._meta.label for model, page in admin.site._registry.items() if not isinstance(page, ModelAdmin)
    ]
    assert foreign == []


def test_chains_show_their_steps_and_cannot_be_edited(console: Client, story: Callable[..., Story]) -> None:
    from core import chains

    told = story("one", "two")
    chain = told.start()
    chains.chain_enter(chain.pk, now=NOON)
    assert chain.pk in opens(console, "core_chain")
    text = opens(console, "core_chain", chain.pk)
    assert "one" in text and "thing t1" in text
    assert 'name="_save"' not in text
    event = Event.objects.get(code="chain_started")
    assert "chain_started" in opens(console, "core_event", event.pk)
    assert "created" in opens(console, "core_event")
    answer = console.post(reverse("admin:core_event_change", args=[event.pk]), {"code": "forged"})
    assert answer.status_code == 403
    assert console.post(reverse("admin:core_event_delete", args=[event.pk])).status_code == 403


def test_people_groups_and_ticks_open(console: Client) -> None:
    schedule_upsert()
    for model in (
        "auth_user",
        "auth_group",
        "axes_accessattempt",
        "axes_accesslog",
        "django_celery_beat_intervalschedule",
    ):
        opens(console, model)
    opens(console, "auth_user", User.objects.get().pk)
    opens(console, "django_celery_beat_periodictask")
    opens(console, "django_celery_beat_periodictask", PeriodicTask.objects.first().pk)


# -- tokens -------------------------------------------------------------------------------------------


def issue(client: Client, **fields: Any) -> str:
    body = {"_form_submitted": "true", "name": "ci", "scope": "operate", "days": 30, **fields}
    return client.post(reverse("admin:core_apitoken_issue"), body).content.decode()


def test_a_token_is_made_in_ones_own_name_and_shown_once(
    console: Client, api_client: Callable[..., Any]
) -> None:
    text = issue(console)
    (plain,) = re.findall(r"dm_[\w-]+", text)
    row = ApiToken.objects.get()
    assert (row.user.username, row.scopes, row.name) == ("ops", ["read", "operate"], "ci")
    client = api_client()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {plain}")
    assert client.get("/api/jobs").status_code == 200
    assert plain not in opens(console, "core_apitoken") + opens(console, "core_apitoken", row.pk)
    place = reverse("admin:core_apitoken_revoke", args=[row.pk])
    console.get(place)
    assert client.get("/api/jobs").status_code == 200
    console.post(place, {"_form_submitted": "true"})
    assert client.get("/api/jobs").status_code == 401


def test_only_a_superuser_makes_an_administrators_token(console: Client) -> None:
    person = User.objects.create_user("clerk", is_staff=True)
    person.user_permissions.set(Permission.objects.filter(codename__endswith="_apitoken"))
    clerk = Client()
    clerk.force_login(person)
    assert "Only a superuser" in issue(clerk, scope="admin")
    assert not ApiToken.objects.exists()
    issue(clerk, scope="read")
    issue(console)
    listed = opens(clerk, "core_apitoken")
    mine = ApiToken.objects.get(user=person)
    other = ApiToken.objects.get(user__username="ops")
    assert mine.prefix in listed and other.prefix not in listed
    clerk.post(reverse("admin:core_apitoken_revoke", args=[other.pk]), {"_form_submitted": "true"})
    other.refresh_from_db()
    assert other.revoked_at is None


def test_a_reason_is_worded_when_it_is_shown(console: Client) -> None:
    Event.objects.create(
        subject_type="worker",
        subject_id="w_1",
        code="x",
        reason_code="asked",
        reason_params=dict(because("asked", by="alice").params),
    )
    assert "asked for by alice" in opens(console, "core_event")
