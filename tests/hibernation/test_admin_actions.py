"""Every action of every page of the console is a confirmed POST: a link, or another site's form, changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.test import Client
from django.urls import reverse

from tests.hibernation.rows import asleep_of, instance_of, person

pytestmark = pytest.mark.django_db

OURS = ("core", "pool", "snapshots", "hibernation", "auth", "django_celery_beat")


def actions() -> Iterator[tuple[str, str, bool, Any]]:
    """(admin, action, is about one row, method) of every unfold action of every registered admin."""
    for model, page in admin.site._registry.items():
        for attribute, about_row in (
            ("actions_list", False),
            ("actions_row", True),
            ("actions_detail", True),
        ):
            for item in getattr(page, attribute, ()):
                for name in item["items"] if isinstance(item, dict) else [item]:
                    yield model._meta.label_lower, name, about_row, getattr(page, name)


def everything() -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all our tables."""
    return {
        model._meta.label: list(model._base_manager.order_by("pk").values_list())
        for model in apps.get_models(include_auto_created=True)
        if model._meta.app_label in OURS
    }


@pytest.fixture
def world() -> Any:
    alice = person("alice")
    asleep_of(alice, name="asleep")
    return instance_of(alice, name="awake")


def browser(**options: Any) -> Client:
    client = Client(**options)
    client.force_login(
        person("root", is_staff=True, is_superuser=True), backend="django.contrib.auth.backends.ModelBackend"
    )
    return client


def address(label: str, name: str, about_row: bool) -> str:
    model = apps.get_model(label)
    url_name = f"admin:{model._meta.app_label}_{model._meta.model_name}_{name}"
    row = model._default_manager.order_by("pk").last()
    return reverse(url_name, args=[row.pk if row is not None else "none"] if about_row else [])


def test_there_are_actions_to_hold_to_this() -> None:
    assert {"wake", "hibernate", "keep_awake"} <= {name for _, name, _, _ in actions()}


@pytest.mark.parametrize(("label", "name", "about_row", "method"), list(actions()))
def test_every_action_asks_before_it_acts(label: str, name: str, about_row: bool, method: Any) -> None:
    assert getattr(method, "dialog", None), f"{label}.{name} would run on a GET: give it a dialog"


@pytest.mark.slow
@pytest.mark.parametrize(("label", "name", "about_row", "method"), list(actions()))
def test_a_link_changes_nothing(label: str, name: str, about_row: bool, method: Any, world: Any) -> None:
    client = browser()
    before = everything()
    answer = client.get(address(label, name, about_row))
    assert answer.status_code == 200
    assert b"csrfmiddlewaretoken" in answer.content, "it shows the form that would do it"
    assert everything() == before


@pytest.mark.slow
@pytest.mark.parametrize(("label", "name", "about_row", "method"), list(actions()))
def test_another_sites_form_is_refused(
    label: str, name: str, about_row: bool, method: Any, world: Any
) -> None:
    client = browser(enforce_csrf_checks=True)
    before = everything()
    assert client.post(address(label, name, about_row), {"_form_submitted": "on"}).status_code == 403
    assert everything() == before


@pytest.mark.slow
@pytest.mark.parametrize(("label", "name", "about_row", "method"), list(actions()))
def test_a_person_without_the_right_to_change_is_refused(
    label: str, name: str, about_row: bool, method: Any, world: Any
) -> None:
    client = Client()
    client.force_login(person("eve", is_staff=True), backend="django.contrib.auth.backends.ModelBackend")
    before = everything()
    assert client.post(address(label, name, about_row), {"_form_submitted": "on"}).status_code == 403
    assert everything() == before


@pytest.mark.slow
@pytest.mark.parametrize(("label", "name", "about_row", "method"), list(actions()))
def test_an_action_on_what_is_no_row_is_refused_and_no_fault(
    label: str, name: str, about_row: bool, method: Any, world: Any
) -> None:
    client = browser(raise_request_exception=False)
    path = address(label, name, about_row).split("/")
    for no_id in ("%00", "x" * 300, "nobody", "9" * 30):
        at = "/".join([*path[:-3], no_id, *path[-2:]]) if about_row else "/".join(path)
        assert client.get(at).status_code < 500
        sent = {"_form_submitted": "on", "confirm": "\x00", "minutes": "nan"}
        assert client.post(at, sent).status_code < 500


@pytest.mark.slow
@pytest.mark.parametrize("model", list(admin.site._registry), ids=lambda model: model._meta.label_lower)
def test_no_address_of_a_page_is_a_fault(model: Any, world: Any) -> None:
    client = browser(raise_request_exception=False)
    at = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    for place in ("%00", "9" * 30):
        for path in (f"?q={place}&p={place}", f"?id={place}", f"?state__exact={place}", f"{place}/change/"):
            assert client.get(at + path).status_code < 500, path


@pytest.mark.parametrize("model", list(admin.site._registry), ids=lambda model: model._meta.label_lower)
def test_every_list_and_every_page_opens(model: Any, world: Any) -> None:
    client = browser()
    path = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    assert client.get(reverse(f"{path}_changelist")).status_code == 200
    row = model._default_manager.order_by("pk").last()
    if row is not None:
        assert client.get(reverse(f"{path}_change", args=[quote(row.pk)])).status_code == 200
