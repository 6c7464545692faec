"""The columns by which selection decides follow what is heard, what ends, and the clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from core.reasons import because
from pool.models import Account, AccountWeek, Dispatch, Worker
from pool.services.accounts import account_create, account_update
from pool.services.dispatches import dispatch_withdraw
from pool.services.intake import intake_drain
from pool.services.jobs import jobs_dispatch
from pool.services.standings import slots_release, standings_renew
from pool.services.workers import worker_offline
from tests.pool.conftest import NOON
from tests.pool.services.jobs import SOON, attempt, claim, finish, state, submit


@pytest.fixture
def colab(alice: User) -> Account:
    return account_create(owner=alice, kind="colab", label="c")


@pytest.fixture
def kaggle(alice: User) -> Account:
    return account_create(owner=alice, kind="kaggle", label="k")


def taken(worker: Worker) -> int:
    worker.refresh_from_db()
    return worker.taken


def test_a_post_says_until_when_its_worker_is_safe(
    colab: Account, enrol: Callable[..., Worker], stream: Callable[..., str]
) -> None:
    worker = enrol("w", into=colab)
    stream(worker, session_runtime_hours=2.3)
    intake_drain(now=NOON)
    worker.refresh_from_db()
    assert round(worker.used_percent, 1) == 20.0
    assert worker.safe_until == NOON + timedelta(hours=0.9 * 11.5 - 2.3)
    assert worker.ends_at == NOON + timedelta(hours=11.5 - 2.3)


def test_a_worker_without_limits_costs_its_posts_nothing(
    enrol: Callable[..., Worker], stream: Callable[..., str]
) -> None:
    worker = enrol("w")
    stream(worker, session_runtime_hours=200)
    with CaptureQueriesContext(connection) as queries:
        intake_drain(now=NOON)
    assert not [one for one in queries.captured_queries if '"safe_until" = v.' in one["sql"]]
    worker.refresh_from_db()
    assert (worker.used_percent, worker.safe_until, worker.renews_at) == (0, None, None)


def test_a_new_session_is_fresh_before_its_first_post(
    colab: Account, enrol: Callable[..., Worker], stream: Callable[..., str]
) -> None:
    worker = enrol("w", into=colab)
    stream(worker, session_runtime_hours=11)
    intake_drain(now=NOON)
    worker = enrol("w", into=colab, now=SOON)
    assert worker.used_percent == 0


def test_posts_that_stay_away_do_not_make_the_worker_younger(
    alice: User, colab: Account, enrol: Callable[..., Worker], stream: Callable[..., str]
) -> None:
    """Nothing is stored for two hours, the worker is still thought online: reading it anew counts from its last post."""
    worker = enrol("w", into=colab)
    stream(worker, session_runtime_hours=9)
    intake_drain(now=NOON)
    later = NOON + timedelta(hours=2)
    job = submit(alice)
    assert jobs_dispatch(now=later) == 0
    worker.refresh_from_db()
    assert worker.safe_until == NOON + timedelta(hours=0.9 * 11.5 - 9)
    assert state(job)[1] == "all 1 workers that fit and are online are near their limit"


def test_a_week_that_begins_anew_makes_its_workers_safe_at_that_moment(
    alice: User, kaggle: Account, enrol: Callable[..., Worker], stream: Callable[..., str]
) -> None:
    sunday = NOON + timedelta(days=4, hours=11, minutes=59)
    worker = enrol("w", into=kaggle, now=sunday)
    AccountWeek.objects.create(account=kaggle, starts_at=NOON - timedelta(days=2, hours=12), used_s=29 * 3600)
    stream(worker, at=sunday, session_runtime_hours=0.01)
    intake_drain(now=sunday)
    submit(alice)
    assert jobs_dispatch(now=sunday) == 0
    assert jobs_dispatch(now=sunday + timedelta(seconds=59)) == 0
    assert jobs_dispatch(now=sunday + timedelta(seconds=60)) == 1


def test_changed_limits_count_from_the_next_run_on(
    alice: User, colab: Account, enrol: Callable[..., Worker], stream: Callable[..., str]
) -> None:
    worker = enrol("w", into=colab)
    stream(worker, session_runtime_hours=3)
    intake_drain(now=NOON)
    account_update(account=colab, session_shutdown_h=3.1)
    job = submit(alice)
    assert jobs_dispatch(now=SOON) == 0
    assert "near their limit" in state(job)[1]
    account_update(account=colab, enabled=False)
    assert jobs_dispatch(now=SOON + timedelta(seconds=11)) == 0
    assert state(job)[1] == "the accounts of all 1 workers that fit are switched off"


def test_nothing_to_read_anew_is_one_query(enrol: Callable[..., Worker], colab: Account) -> None:
    enrol("w", into=colab)
    with CaptureQueriesContext(connection) as queries:
        assert standings_renew(now=NOON) == 0
    assert len(queries) == 1
    assert standings_renew(now=NOON + timedelta(minutes=2)) == 1


def test_slots_are_counted_as_jobs_begin_and_end(alice: User, enrol: Callable[..., Worker]) -> None:
    worker = enrol(slots=3)
    jobs = [submit(alice) for _ in range(4)]
    assert jobs_dispatch(now=NOON) == 3
    assert taken(worker) == 3
    for job in jobs[:2]:
        claim(job)
        finish(job)
    assert slots_release() == 2
    assert taken(worker) == 1
    assert slots_release() == 0
    assert jobs_dispatch(now=SOON) == 1
    assert taken(worker) == 2


def test_work_that_was_taken_back_holds_its_slot_until_it_is_known_to_have_stopped(
    alice: User, enrol: Callable[..., Worker], stream: Callable[..., str]
) -> None:
    worker = enrol()
    job = submit(alice)
    jobs_dispatch(now=NOON)
    claim(job)
    dispatch_withdraw(attempt(job), reason=because("lease_over", lease_s=90), now=SOON)
    assert slots_release() == 0
    assert taken(worker) == 1
    stream(worker, at=SOON + timedelta(seconds=1), jobs=[])
    intake_drain(now=SOON + timedelta(seconds=1))
    assert slots_release() == 1
    assert taken(worker) == 0


def test_a_new_session_holds_no_slot_of_the_one_before(alice: User, enrol: Callable[..., Worker]) -> None:
    worker = enrol("w")
    job = submit(alice)
    jobs_dispatch(now=NOON)
    claim(job)
    worker_offline(Worker.objects.get(pk=worker.pk), reason=because("session_ended"), now=SOON)
    assert slots_release() == 0
    enrol("w", now=SOON)
    assert slots_release() == 1
    assert taken(worker) == 0
    assert not Dispatch.objects.filter(counted=True).exists()
