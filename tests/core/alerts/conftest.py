"""A source of the tests' own, people who are told, and servers that are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from core import reasons
from core.alerts import causes
from core.alerts.causes import Finding, Severity, Source
from core.alerts.checking import alerts_check
from core.reasons import because

NOON = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
LOOPBACK = "127.0.0.0/8"


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice", email="alice@example.org")


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob", email="bob@example.org")


@pytest.fixture
def ops(db: None) -> User:
    return User.objects.create_superuser("ops")


class Watch:
    """What is wrong, as a test says it. `look()` is a run of the check at that second."""

    def __init__(self, source: Source, wrong: list[Finding]) -> None:
        self.source, self.wrong = source, wrong

    def says(self, *subjects: str, cause: str = "tests_fire", owner: User | None = None) -> None:
        self.wrong[:] = [
            Finding(because(cause, place=subject), "room", subject, owner.pk if owner else None)
            for subject in subjects
        ]

    def look(self, seconds: float = 0.0) -> int:
        return alerts_check(now=at(seconds))


@pytest.fixture
def watch(db: None, valkey: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """The only source there is. tests_fire is a warning, tests_smoke good to know, tests_flood critical."""
    monkeypatch.setattr(causes, "_sources", {})
    monkeypatch.setattr(reasons, "_catalogue", dict(reasons._catalogue))
    reasons.register(
        {
            "tests_fire": "fire in {place}",
            "tests_smoke": "smoke in {place}",
            "tests_flood": "water in {place}",
        }
    )
    wrong: list[Finding] = []
    kinds = {"tests_fire": Severity.WARNING, "tests_smoke": Severity.INFO, "tests_flood": Severity.CRITICAL}
    yield Watch(causes.register_source("tests", causes=kinds, look=lambda now: list(wrong)), wrong)


@pytest.fixture
def told(settings: Any) -> Callable[..., None]:
    """told(emails=…, webhooks=…): who of the site is told from now on. Mail is on; nobody is told unless named."""

    def who(**people: Any) -> None:
        import ipaddress

        settings.ALERT_MAIL = people.get("mail", True)
        settings.ALERT_EMAILS = tuple(people.get("emails", ()))
        settings.ALERT_WEBHOOKS = tuple(people.get("webhooks", ()))
        settings.ALERT_APPRISE = tuple(people.get("apprise", ()))
        settings.ALERT_WEBHOOK_SECRET = "s" * 32
        settings.ALERT_LEAST_SEVERITY = people.get("least", "info")
        settings.PRIVATE_NETWORKS = tuple(
            ipaddress.ip_network(net) for net in people.get("private", (LOOPBACK,))
        )

    who()
    return who
