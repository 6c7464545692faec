"""GET /api/pool/plan: whose accounts it opens, from what, and what it costs to ask."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from pool.models import Account, AccountWeek, Session, Worker
from pool.quota import week_start
from pool.services.accounts import account_create
from pool.services.planning import pool_plan
from pool.usage import limits_of

Client = Callable[..., APIClient]
Enrol = Callable[..., Worker]


def submit(client: APIClient, **fields: Any) -> None:
    assert client.post("/api/jobs", {"command": ["true"], **fields}, format="json").status_code == 201


@pytest.fixture
def kaggle(alice: User) -> Account:
    return account_create(owner=alice, kind="kaggle", label="k")


def test_a_waiting_job_opens_the_account_that_has_hours_and_says_why(
    api_client: Client, alice: User, kaggle: Account, enrol: Enrol
) -> None:
    enrol("off", into=kaggle, online=False)
    now = timezone.now()
    start = week_start(now, limits_of(kaggle).week)
    AccountWeek.objects.create(account=kaggle, starts_at=start, used_s=3 * 3600, estimated_s=3600)
    submit(api_client(alice))
    body = api_client(alice).get("/api/pool/plan").json()
    assert body["next"]["account"] == kaggle.pk
    assert body["next"] == body["steps"][0]
    assert body["reason"].startswith("open kaggle k now")
    assert (body["queue"]["jobs"], body["queue"]["workers_needed"]) == (1, 1)
    (one,) = body["accounts"]
    assert (one["hours_left"], one["hours_usable"], one["estimated_hours"]) == (26, 17, 1)
    assert one["reason"].startswith("17.0 h of its week can still be used")
    assert len(body["hours"]) == 24


def test_only_ones_own_accounts_are_opened_and_shown_and_staff_sees_all(
    api_client: Client, alice: User, bob: User, ops: User, kaggle: Account, enrol: Enrol
) -> None:
    enrol("off", into=kaggle, online=False)
    submit(api_client(alice))
    strangers = api_client(bob).get("/api/pool/plan").json()
    assert (strangers["accounts"], strangers["next"], strangers["queue"]["jobs"]) == ([], None, 1)
    assert strangers["reason"].endswith("no account of yours has a session left")
    assert len(api_client(ops).get("/api/pool/plan").json()["accounts"]) == 1


def test_the_default_profile_is_the_use_of_four_weeks_by_the_accounts_own_clock(
    alice: User, kaggle: Account, enrol: Enrol
) -> None:
    Account.objects.filter(pk=kaggle.pk).update(reset_zone="America/Sao_Paulo")
    worker = enrol("1", into=kaggle, online=False)
    now = timezone.now().replace(hour=12, minute=0, second=0, microsecond=0)
    for day in range(1, 29):
        began = now - timedelta(days=day)
        Session.objects.create(worker=worker, epoch=100 + day, started_at=began, counted_s=2 * 3600)
    Session.objects.create(worker=worker, epoch=1000, started_at=now - timedelta(weeks=9), counted_s=9 * 3600)
    found = pool_plan(user=alice, now=now)
    usual = found.accounts[0].holding.usual
    assert [hour for hour in range(24) if usual[hour] > 0] == [9, 10]  # 12:00 to 14:00 UTC
    assert usual[9] == pytest.approx(1, abs=0.05)
    assert found.plan.levels["peak"] == 1
    assert found.plan.hours[0].level == "peak"


@pytest.mark.parametrize("query", ["within_hours=0", "within_hours=nan", "peak=-1", "night=x", "average=1e9"])
def test_a_wrong_wish_is_refused(api_client: Client, alice: User, query: str) -> None:
    answer = api_client(alice).get(f"/api/pool/plan?{query}")
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid"


def test_wishes_stand_in_place_of_what_was_used(api_client: Client, alice: User, kaggle: Account) -> None:
    body = api_client(alice).get("/api/pool/plan?average=1&within_hours=2").json()
    assert body["levels"]["average"] == 1
    assert body["next"]["account"] == kaggle.pk
    assert api_client().get("/api/pool/plan").status_code == 401


def test_the_number_of_queries_does_not_grow_with_the_pool(alice: User, enrol: Enrol) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            pool_plan(user=alice, now=timezone.now())
        return len(captured)

    for number in range(2):
        enrol(f"{number}", into=account_create(owner=alice, kind="kaggle", label=f"k{number}"))
    few = queries()
    for number in range(2, 8):
        enrol(f"{number}", into=account_create(owner=alice, kind="kaggle", label=f"k{number}"))
    assert queries() == few
