"""GET /api/pool/plan: whose accounts it opens, from what, and what it costs to ask."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from core.reasons import because
from pool.models import Account, AccountWeek, Worker
from pool.quota import week_start
from pool.services.accounts import account_create, account_update
from pool.services.books import Booking, books_write
from pool.services.intake import intake_drain
from pool.services.planning import pool_plan
from pool.services.workers import worker_create, worker_offline
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
    for began in [now - timedelta(days=day) for day in range(1, 29)] + [now - timedelta(weeks=9)]:
        ran(worker, began, hours=2)
    found = pool_plan(user=alice, now=now)
    usual = found.accounts[0].holding.usual
    assert [hour for hour in range(24) if usual[hour] > 0] == [9, 10]  # 12:00 to 14:00 UTC
    assert usual[9] == pytest.approx(1, abs=0.05)
    assert found.plan.levels["peak"] == 1
    assert found.plan.hours[0].level == "peak"


def ran(worker: Worker, began: datetime, *, hours: float) -> None:
    """It ran for so long, and somebody reported it."""
    rule = limits_of(worker.account).week
    stretch = (began, began + timedelta(hours=hours))
    books_write([Booking(account_id=worker.account_id, rule=rule, stretch=stretch)])


def test_the_profile_counts_each_hour_once_however_its_machine_joined(
    alice: User, enrol: Enrol, stream: Callable[..., str]
) -> None:
    """One session that joined twice, one whose machine was restarted without joining, and a box up for forty days."""
    twice, again, long = (account_create(owner=alice, kind="colab", label=label) for label in "tal")
    noon = timezone.now().replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)

    def post(worker: Worker, minutes: float, runtime_h: float) -> None:
        stream(worker, at=noon + timedelta(minutes=minutes), session_runtime_hours=runtime_h)

    worker = enrol("w", into=twice, now=noon)
    post(worker, 60, 1.0)
    intake_drain(now=noon + timedelta(hours=1))
    worker = enrol("w", into=twice, runtime_h=1.0, now=noon + timedelta(hours=1))
    post(worker, 120, 2.0)
    intake_drain(now=noon + timedelta(hours=2))
    worker = enrol("w", into=again, now=noon)
    for minutes, runtime_h in ((60, 1.0), (121, 1.0), (150, 1.5)):  # restarted at 13:01
        post(worker, minutes, runtime_h)
    intake_drain(now=noon + timedelta(hours=3))
    worker = enrol("w", into=long, now=noon)
    ran(worker, noon - timedelta(days=40), hours=24 * 40)

    accounts = pool_plan(user=alice, now=noon + timedelta(hours=12)).accounts
    usual = {one.account.label: one.holding.usual for one in accounts}
    assert usual["t"][12:15] == (pytest.approx(1), pytest.approx(1), 0)
    assert usual["a"][12:15] == (pytest.approx(1), pytest.approx(59 / 60), pytest.approx(31 / 60))
    assert usual["l"] == pytest.approx([1.0] * 24, abs=0.05)


def test_boxes_are_no_part_of_the_pools_profile(alice: User, account: Account) -> None:
    worker_create(account=account, name="i_1", instance_ref="i_1", owner=alice)
    now = timezone.now()
    stretch = (now - timedelta(hours=3), now - timedelta(hours=1))
    rule = limits_of(account).week
    books_write([Booking(account_id=account.pk, rule=rule, stretch=stretch, shared=False)])
    assert pool_plan(user=alice, now=now).plan.levels == {"peak": 0, "average": 0, "night": 0}


def test_two_workers_of_one_account_are_not_each_promised_its_whole_week(
    alice: User, kaggle: Account, enrol: Enrol
) -> None:
    now = timezone.now().replace(hour=12, minute=0, second=0, microsecond=0)
    account_update(account=kaggle, reset_weekday=(now + timedelta(days=4)).weekday())
    ran(enrol("past", into=kaggle, online=False), now - timedelta(hours=17), hours=17)
    for name in ("k1", "k2"):
        enrol(name, into=kaggle, now=now)
    hours = pool_plan(user=alice, now=now).plan.hours
    assert [hour.there for hour in hours[:4]] == [2, 2, 0, 0]  # four hours of the safe part, two for each


def test_an_account_opens_no_more_sessions_than_can_run_at_once(
    api_client: Client, alice: User, enrol: Enrol
) -> None:
    """Every notebook that joins without a name, while another runs, is a worker of its own; those are over."""
    colab = account_create(owner=alice, kind="colab", label="c")
    past = [enrol(into=colab) for _ in range(4)]
    for worker in past:
        worker_offline(worker, reason=because("session_ended"), now=timezone.now())
    for _ in range(5):
        submit(api_client(alice), expected_hours=4)
    plan = pool_plan(user=alice, now=timezone.now()).plan
    assert len([step for step in plan.steps if step.at == plan.steps[0].at]) == 1


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
