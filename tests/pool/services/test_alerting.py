"""What the pool says is wrong, and that it says so no longer once it is not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User

from core.alerts.checking import alerts_check
from core.models import Alert, Event, TickRun
from core.reasons import because
from core.transitions import advance
from pool import spend
from pool.models import Account, AccountWeek, Job, Worker
from pool.quota import week_start
from pool.services.accounts import account_create
from pool.services.alerting import LOST_SHOWN, queue_stuck, quotas_near, workers_lost
from pool.services.bell import DISPATCH_TICK
from pool.services.job_spec import JobSpec
from pool.services.jobs import jobs_dispatch
from pool.services.submission import job_submit
from pool.services.workers import worker_heard, worker_lost, worker_offline, worker_revoke
from pool.spend import Spend
from pool.states import WorkerState
from pool.usage import limits_of
from tests.pool.conftest import NOON

Enrol = Callable[..., Worker]
pytestmark = pytest.mark.usefixtures("valkey")


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def found(look: Any, now: datetime = NOON) -> list[tuple[str, str]]:
    return sorted((finding.reason.code, finding.subject_id) for finding in look(now))


def lose(worker: Worker) -> None:
    reason = because("posts_missing", silent_s=70.0, interval_s=30.0)
    advance(worker, WorkerState.SUSPECT, reason=reason, now=NOON)
    worker_lost(worker, reason=reason, now=NOON)


# -- lost workers ---------------------------------------------------------------------------------------------------


def test_a_lost_worker_is_told_of_until_it_is_back(enrol: Enrol, alice: User) -> None:
    worker = enrol("colab-1")
    assert found(workers_lost) == []
    lose(worker)
    (finding,) = workers_lost(NOON)
    assert str(finding.reason) == (
        "worker colab-1 (local rack) is lost: no status post for 70 s; it posts every 30 s"
    )
    assert (finding.subject_id, finding.owner_id) == (worker.pk, alice.pk)
    worker_heard(worker, now=at(1))
    assert found(workers_lost) == []


def test_a_worker_that_was_revoked_or_lost_long_ago_is_no_news(enrol: Enrol) -> None:
    revoked, old = enrol("r"), enrol("o")
    for worker in (revoked, old):
        lose(worker)
    worker_revoke(revoked, reason=because("operator", note="x"), now=at(1))
    assert found(workers_lost, at(2)) == [("worker_is_lost", old.pk)]
    assert found(workers_lost, NOON + LOST_SHOWN) == []


def test_a_notebook_that_has_joined_again_is_lost_no_more(alice: User, enrol: Enrol) -> None:
    """A person opens her notebook anew before anybody has missed the machine that had died."""
    colab = account_create(owner=alice, kind="colab", label="c")
    named, died = enrol("mine", into=colab), enrol(into=colab)
    anew = enrol(into=colab, now=at(1))
    assert anew.pk != died.pk
    for worker in (named, died):
        lose(worker)
    assert found(workers_lost, at(3)) == [("worker_is_lost", named.pk)]
    lose(anew)
    assert found(workers_lost, at(3)) == [("worker_is_lost", pk) for pk in sorted((named.pk, anew.pk))]


# -- quotas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used_h", "causes"),
    [
        (20.9, []),
        (21.0, ["quota_70"]),
        (27.0, ["quota_70", "quota_90"]),
        (30.0, ["account_exhausted", "quota_70", "quota_90"]),
    ],
)
def test_a_week_is_told_of_at_70_and_90_percent_and_when_it_is_used_up(
    alice: User, used_h: float, causes: list[str]
) -> None:
    account = account_create(owner=alice, kind="kaggle", label="k")
    starts_at = week_start(NOON, limits_of(account).week)
    AccountWeek.objects.create(account=account, starts_at=starts_at, used_s=used_h * 3600)
    assert found(quotas_near) == [(cause, account.pk) for cause in causes]
    assert found(quotas_near, NOON + timedelta(days=7)) == []


def test_a_session_is_its_workers(alice: User, enrol: Enrol) -> None:
    colab = account_create(owner=alice, kind="colab", label="c")
    near, fresh, over = (enrol(name, into=colab) for name in ("near", "fresh", "over"))
    near.sessions.update(runtime_s=10.8 * 3600)
    over.sessions.update(runtime_s=11.4 * 3600)
    worker_offline(over, reason=because("session_ended"), now=NOON)
    assert found(quotas_near) == [("quota_70", near.pk), ("quota_90", near.pk)]
    (first, _) = quotas_near(NOON)
    assert str(first.reason) == "worker near has used 94 % of its quota: session 10.80h/11.5h (93.9%)"
    assert fresh.pk not in dict(found(quotas_near)).values()


def test_a_session_is_told_of_once_though_its_worker_is_lost_for_a_while(alice: User, enrol: Enrol) -> None:
    worker = enrol("w", into=account_create(owner=alice, kind="colab", label="c"), runtime_h=10.8)
    for minute in (0, 1):
        alerts_check(now=at(minute))
    lose(worker)
    for minute in (2, 40):
        alerts_check(now=at(minute))
    worker_heard(worker, now=at(41))
    alerts_check(now=at(41))
    near = Alert.objects.filter(cause__startswith="quota")
    assert sorted(near.values_list("cause", "state")) == [("quota_70", "open"), ("quota_90", "open")]
    assert not Event.objects.filter(
        code__in=("alert_resolved", "alert_reopened"), subject_id__in=near
    ).exists()
    worker.refresh_from_db()
    lose(worker)
    assert found(quotas_near, at(71)) != []
    assert found(quotas_near, at(72)) == []  # twelve hours: the provider has ended it


def test_money_is_a_quota_as_well(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    account = account_create(owner=alice, kind="vast", label="v", budget_usd_per_day=Decimal(10))
    monkeypatch.setattr(spend, "_sources", [lambda ids, now: {account.pk: Spend(usd_day=12.5)}])
    assert found(quotas_near) == [(c, account.pk) for c in ("account_exhausted", "quota_70", "quota_90")]


def test_an_account_that_is_switched_off_is_no_news(alice: User) -> None:
    account = account_create(owner=alice, kind="kaggle", label="k")
    AccountWeek.objects.create(
        account=account, starts_at=week_start(NOON, limits_of(account).week), used_s=108_000
    )
    Account.objects.update(enabled=False)
    assert found(quotas_near) == []


def test_the_number_of_accounts_and_workers_costs_no_query(
    alice: User, enrol: Enrol, django_assert_num_queries: Any
) -> None:
    colab = account_create(owner=alice, kind="colab", label="c")
    for number in range(10):
        account_create(owner=alice, kind="kaggle", label=f"k{number}")
        enrol(f"w{number}", into=colab, runtime_h=9.0)
    with django_assert_num_queries(4):
        assert len(list(quotas_near(NOON))) == 10


# -- the queue ------------------------------------------------------------------------------------------------------


@pytest.fixture
def dispatcher(db: None) -> None:
    """The dispatcher has run for a day without a gap."""
    TickRun.objects.create(name=DISPATCH_TICK, started_at=NOON, resumed_at=NOON - timedelta(days=1))


def test_jobs_that_wait_in_vain_are_one_finding_for_their_owner(
    dispatcher: None, alice: User, bob: User, enrol: Enrol
) -> None:
    enrol("small", gib=16)
    for owner, count in ((alice, 3), (bob, 1)):
        for _ in range(count):
            job_submit(
                owner=owner, spec=JobSpec(command=["true"], provider="local", expected_hours=1), now=NOON
            )
    Job.objects.update(reason_code="none_online", reason_params={"workers": 1})
    assert found(queue_stuck, at(29)) == []
    findings = {finding.subject_id: str(finding.reason) for finding in queue_stuck(at(31))}
    assert findings == {
        str(
            alice.pk
        ): "3 jobs of alice wait in vain, the longest for 31 minutes: none of the 1 workers that fit is online",
        str(
            bob.pk
        ): "1 jobs of bob wait in vain, the longest for 31 minutes: none of the 1 workers that fit is online",
    }


def test_waiting_for_ones_turn_is_not_in_vain(dispatcher: None, alice: User, enrol: Enrol) -> None:
    enrol("w")
    for _ in range(2):
        job_submit(owner=alice, spec=JobSpec(command=["true"]), now=NOON)
    jobs_dispatch(now=NOON)
    assert Job.objects.filter(state="queued", waiting__reason_code="all_busy").count() == 1
    assert found(queue_stuck, at(600)) == []


def test_jobs_that_nobody_looked_at_are_stuck(dispatcher: None, alice: User, enrol: Enrol) -> None:
    enrol("w")
    job_submit(owner=alice, spec=JobSpec(command=["true"]), now=NOON)
    assert found(queue_stuck, at(31)) == [("queue_stuck", str(alice.pk))]


def test_our_own_absence_is_nobodys_wait(alice: User, enrol: Enrol) -> None:
    enrol("w")
    job_submit(owner=alice, spec=JobSpec(command=["true"]), now=NOON)
    assert found(queue_stuck, at(600)) == []
    TickRun.objects.create(name=DISPATCH_TICK, started_at=at(590), resumed_at=at(590))
    assert found(queue_stuck, at(600)) == []
    assert found(queue_stuck, at(621)) == [("queue_stuck", str(alice.pk))]


def test_a_dispatcher_that_was_away_neither_resolves_what_stands_nor_tells_of_it_again(
    dispatcher: None, alice: User, bob: User, enrol: Enrol
) -> None:
    enrol("w")
    job_submit(owner=alice, spec=JobSpec(command=["true"]), now=NOON)
    alerts_check(now=at(31))
    job_submit(owner=bob, spec=JobSpec(command=["true"]), now=at(1))
    TickRun.objects.update(resumed_at=at(32))
    for minute in (33, 50, 61.5):
        alerts_check(now=at(minute))
    alert = Alert.objects.get()  # nothing new is said: bob's has hardly been looked at
    assert (alert.subject_id, alert.state) == (str(alice.pk), "open")
    alerts_check(now=at(63))
    assert set(Alert.objects.values_list("subject_id", "state")) == {
        (str(alice.pk), "open"),
        (str(bob.pk), "open"),
    }
    TickRun.objects.update(resumed_at=at(64))
    Job.objects.filter(owner=alice).update(state="cancelled")
    alerts_check(now=at(65))
    assert Alert.objects.get(subject_id=str(alice.pk)).state == "resolved"
    assert not Event.objects.filter(code="alert_reopened").exists()


def test_the_number_of_owners_costs_no_query(
    dispatcher: None, alice: User, bob: User, charlie: User, enrol: Enrol, django_assert_num_queries: Any
) -> None:
    enrol("w")
    for owner in (alice, bob, charlie):
        for _ in range(2):
            job_submit(owner=owner, spec=JobSpec(command=["true"]), now=NOON)
    with django_assert_num_queries(2):  # since when the dispatcher runs, and the jobs
        assert [finding.reason.params["jobs"] for finding in queue_stuck(at(31))] == [2, 2, 2]


def test_the_time_is_a_setting(dispatcher: None, alice: User, enrol: Enrol, settings: Any) -> None:
    settings.ALERT_QUEUE_MINUTES = 2
    enrol("w")
    job_submit(owner=alice, spec=JobSpec(command=["true"]), now=NOON)
    assert found(queue_stuck, at(3)) == [("queue_stuck", str(alice.pk))]


# -- all together ---------------------------------------------------------------------------------------------------


def test_a_lost_worker_is_an_alert_from_beginning_to_end(enrol: Enrol, alice: User) -> None:
    worker = enrol("w")
    lose(worker)
    for minute in range(5):
        alerts_check(now=at(minute))
    alert = Alert.objects.get()
    assert (alert.cause, alert.severity, alert.owner, alert.state) == (
        "worker_is_lost",
        "warning",
        alice,
        "open",
    )
    worker_heard(worker, now=at(6))
    alerts_check(now=at(6))
    assert Alert.objects.get().state == "resolved"
