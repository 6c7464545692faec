"""Many rows in one statement, on whichever database this runs."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from core import bulk
from core.bulk import add_rows, update_rows
from core.text import storable
from pool.models import Account, AccountWeek, Worker

NOON = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)


@pytest.fixture
def account(alice: User) -> Account:
    return Account.objects.create(owner=alice, kind="local", label="a")


def workers(account: Account, how_many: int) -> list[Worker]:
    return Worker.objects.bulk_create(
        Worker(account=account, name=f"w{number:04}", state="online", epoch=1) for number in range(how_many)
    )


def test_each_row_gets_its_own_values_and_others_stay(account: Account) -> None:
    first, second, third = workers(account, 3)
    rows = [
        {"id": first.pk, "epoch": 1, "last_seen_at": NOON, "gpu_util": None, "gpu_name": "it's 100%"},
        {"id": second.pk, "epoch": 1, "last_seen_at": None, "gpu_util": 2.5, "gpu_name": ""},
    ]
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert update_rows(Worker, rows, match=("id", "epoch")) == 2
    assert len(queries) == 1
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.last_seen_at, first.gpu_util, first.gpu_name) == (NOON, None, "it's 100%")
    assert (second.last_seen_at, second.gpu_util, second.gpu_name) == (None, 2.5, "")
    assert Worker.objects.get(pk=third.pk).last_seen_at is None


def test_a_row_that_does_not_match_any_more_is_left_alone(account: Account) -> None:
    (worker,) = workers(account, 1)
    rows = [{"id": worker.pk, "epoch": 2, "gpu_util": 1.0}, {"id": "w_gone", "epoch": 1, "gpu_util": 1.0}]
    assert update_rows(Worker, rows, match=("id", "epoch")) == 0
    worker.refresh_from_db()
    assert worker.gpu_util is None


def test_types_survive_whatever_the_first_row_holds(account: Account) -> None:
    rows = [{"id": account.pk, "budget_usd_per_day": Decimal("1.50"), "enabled": False, "reset_hour": 3}]
    assert update_rows(Account, rows, match=("id",)) == 1
    account.refresh_from_db()
    assert (account.budget_usd_per_day, account.enabled, account.reset_hour) == (Decimal("1.50"), False, 3)


def test_sums_are_added_or_begun(account: Account) -> None:
    later = NOON.replace(day=25)
    AccountWeek.objects.create(account=account, starts_at=NOON, used_s=10)
    rows = [
        {"account": account.pk, "starts_at": NOON, "used_s": 5.5},
        {"account": account.pk, "starts_at": later, "used_s": 1.0},
    ]
    add_rows(AccountWeek, rows, match=("account", "starts_at"))
    assert dict(AccountWeek.objects.values_list("starts_at", "used_s")) == {NOON: 15.5, later: 1.0}


def test_more_rows_than_one_statement_takes(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "ROWS_PER_STATEMENT", 4)
    rows = workers(account, 10)
    changes = [{"id": row.pk, "slots": number} for number, row in enumerate(rows)]
    assert update_rows(Worker, changes, match=("id",)) == 10
    assert list(Worker.objects.order_by("name").values_list("slots", flat=True)) == list(range(10))


@pytest.mark.django_db
def test_nothing_to_write_asks_nothing() -> None:
    assert update_rows(Worker, [], match=("id",)) == 0
    assert add_rows(AccountWeek, [], match=("account", "starts_at")) == 0


def test_text_from_outside_is_made_storable() -> None:
    assert storable({"a\x00": ["b\x00c", "\ud800", 1, None, ("é",)]}) == {"a": ["bc", "?", 1, None, ["é"]]}
