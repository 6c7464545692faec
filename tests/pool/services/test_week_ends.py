"""An agent is told when its account's week is used up before its session's limit, so that it ends in time by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from agent import wire
from core import broker
from gateway import keys
from pool.models import Account, AccountWeek, Worker
from pool.quota import week_start
from pool.services.accounts import account_create
from pool.services.intake import intake_drain
from pool.services.publish import orders_of
from pool.usage import limits_of
from tests.pool.conftest import NOON

Enrol = Callable[..., Worker]
Stream = Callable[..., str]

pytestmark = pytest.mark.usefixtures("valkey")


def at(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


@pytest.fixture
def kaggle(alice: User) -> Account:
    """24 of its 30 hours are used."""
    account = account_create(owner=alice, kind="kaggle", label="k")
    week = week_start(NOON, limits_of(account).week)
    AccountWeek.objects.create(account=account, starts_at=week, used_s=24 * 3600)
    return account


def end_by_h(worker: Worker) -> float | None:
    """As it stands in the rows."""
    found = [float(one.id) for one in orders_of([worker.pk]).get(worker.pk, []) if one.kind == "end_by"]
    assert len(found) < 2
    return found[0] if found else None


def test_it_is_told_at_which_runtime_the_week_is_over(kaggle: Account, enrol: Enrol, stream: Stream) -> None:
    worker = enrol("w", into=kaggle)
    stream(worker, session_runtime_hours=0)
    intake_drain(now=NOON)
    assert end_by_h(worker) == pytest.approx(6.0, abs=0.01)
    stream(worker, at=at(2), session_runtime_hours=2.0)
    intake_drain(now=at(2))
    assert end_by_h(worker) == pytest.approx(6.0, abs=0.01), "its own use is no news"


def test_it_ends_sooner_as_others_use_up_the_week_as_well(
    kaggle: Account, enrol: Enrol, stream: Stream
) -> None:
    first, second = enrol("a", into=kaggle), enrol("b", into=kaggle)
    for hours in (0.0, 1.0):
        for worker in (first, second):
            stream(worker, at=at(hours), session_runtime_hours=hours)
        intake_drain(now=at(hours))
    assert [end_by_h(worker) for worker in (first, second)] == pytest.approx([3.0, 3.0], abs=0.01)


@pytest.mark.parametrize(
    "change", [{"session_shutdown_h": None}, {"session_shutdown_h": 5.0}, {"weekly_limit_h": None}]
)
def test_it_is_told_nothing_where_its_session_is_over_first_or_it_does_not_end_itself(
    kaggle: Account, enrol: Enrol, stream: Stream, change: dict[str, Any]
) -> None:
    Account.objects.filter(pk=kaggle.pk).update(**change)
    worker = enrol("w", into=Account.objects.get(pk=kaggle.pk))
    stream(worker, session_runtime_hours=0)
    intake_drain(now=NOON)
    assert end_by_h(worker) is None


def published(worker: Worker) -> list[dict[str, str]]:
    return json.loads(broker.client().hget(keys.ORDERS, worker.pk) or "[]")


def test_what_changes_it_publishes_it_and_rings_nobody(
    kaggle: Account, enrol: Enrol, stream: Stream, django_capture_on_commit_callbacks: Any
) -> None:
    """A post that caused another one would never end."""
    with django_capture_on_commit_callbacks(execute=True):
        first = enrol("a", into=kaggle)
    assert published(first) == [{"kind": "end_by", "id": "6.000"}]
    second = enrol("b", into=kaggle)
    stream(first, session_runtime_hours=0)
    stream(second, session_runtime_hours=0)
    with django_capture_on_commit_callbacks(execute=True):
        intake_drain(now=NOON)
    assert published(first) == published(second) == [{"kind": "end_by", "id": "3.000"}]
    assert not broker.client().llen(wire.queue_key(first.pk))
