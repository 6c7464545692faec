"""What nobody needs any more goes, some at a time; what somebody may still ask for stays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from core.models import Event
from core.reasons import because
from pool.models import Account, AccountUse, EnrollmentToken, EnrollmentUse, Session, Worker
from pool.services import forgetting
from pool.services.enrollment import enrollment_token_issue
from pool.services.forgetting import rows_forget
from pool.services.workers import worker_offline
from tests.pool.conftest import NOON

Enrol = Callable[..., Worker]


def days(number: float) -> Any:
    return NOON + timedelta(days=number)


def test_join_tokens_go_a_month_after_they_have_expired(account: Account, enrol: Enrol) -> None:
    enrol("w")
    enrollment_token_issue(account=account, life=timedelta(days=50), now=NOON)
    assert rows_forget(now=days(30)) == 0
    assert rows_forget(now=days(31)) == 1
    assert (EnrollmentToken.objects.count(), EnrollmentUse.objects.count()) == (1, 0)
    assert Worker.objects.get().epoch == 1


def test_sessions_that_are_over_go_after_a_year_and_the_last_of_a_worker_stays(enrol: Enrol) -> None:
    for _ in range(3):
        worker = enrol("w")
    worker_offline(worker, reason=because("session_ended"), now=NOON)
    EnrollmentToken.objects.all().delete()
    Event.objects.all().delete()
    assert rows_forget(now=days(366)) == 0
    assert rows_forget(now=days(367)) == 2
    assert Session.objects.get().epoch == 3


def test_events_go_after_the_days_that_are_set_and_those_of_jobs_and_instances_stay(
    db: None, settings: Any
) -> None:
    for subject in ("worker", "account", "job", "dispatch", "instance"):
        Event.objects.create(at=NOON, subject_type=subject, subject_id="x", code="c")
    settings.EVENTS_DAYS = 0
    assert rows_forget(now=days(10_000)) == 0
    settings.EVENTS_DAYS = 7
    assert rows_forget(now=days(7)) == 0
    assert rows_forget(now=days(8)) == 2
    assert set(Event.objects.values_list("subject_type", flat=True)) == {"job", "dispatch", "instance"}


def test_one_run_lets_go_a_batch(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "BATCH", 10)
    AccountUse.objects.bulk_create(
        AccountUse(account=account, at=NOON + timedelta(minutes=15 * number)) for number in range(25)
    )
    later = days(60)
    assert [rows_forget(now=later) for _ in range(4)] == [10, 10, 5, 0]
