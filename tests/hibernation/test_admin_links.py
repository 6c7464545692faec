"""As a person goes: from the list, by its links, to the action and what it does."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from core.models import Chain
from tests.hibernation.rows import asleep_of, person

pytestmark = pytest.mark.django_db


@pytest.fixture
def console() -> Client:
    client = Client(headers={"accept-language": "en"})
    client.force_login(
        person("root", is_staff=True, is_superuser=True), backend="django.contrib.auth.backends.ModelBackend"
    )
    return client


def links(page: Any, pattern: str) -> list[str]:
    return sorted(set(re.findall(rf'"({pattern})"', page.content.decode())))


@pytest.mark.parametrize("from_page", [True, False], ids=["the button of its page", "the button of its row"])
def test_a_button_acts_on_the_row_that_it_stands_by(console: Client, from_page: bool) -> None:
    instance = asleep_of(person())
    shown = console.get(reverse("admin:hibernation_instance_changelist"))
    if from_page:
        (page,) = links(shown, r"/[^\"?]*/change/")
        shown = console.get(page)
    (wake,) = links(shown, r"/[^\"?]*/wake/?")
    assert console.get(wake).status_code == 200
    assert console.post(wake, {"_form_submitted": "on"}).status_code == 302
    assert Chain.objects.get().subject_id == instance.pk
