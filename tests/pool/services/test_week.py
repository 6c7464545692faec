"""A week of seven Colab and seven Kaggle workers whose posts are lost, doubled, late and out of order: the books are right."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import User

from agent import wire
from core.reasons import because
from core.transitions import advance
from pool.growth import overdue_s
from pool.models import Account, Worker
from pool.services.accounts import account_create
from pool.services.enrollment import enrollment_token_issue, worker_enroll
from pool.services.intake import intake_drain
from pool.services.official import Official, official_take
from pool.services.terms import terms_acknowledge, terms_of
from pool.services.workers import worker_lost
from pool.states import LISTENING, WorkerState
from pool.usage import week_use
from tests.pool.conftest import append
from tests.pool.simulated import Run, Sent, week_of

SATURDAY = datetime(2026, 11, 21, tzinfo=UTC)
"""When the simulated Kaggle begins its week; the accounts were made with Monday."""

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)

RESERVED_S = 9 * 3600.0
"""Held for each session that runs, however long it will."""


@dataclass
class Played:
    """An account and the true sessions of its workers. told: it holds a token, and is read every hour."""

    account: Account
    told: bool
    start: datetime
    runs: list[Run] = field(default_factory=list)

    def official(self, now: datetime) -> Official:
        over = sum(run.within_h(self.start, now) for run in self.runs if run.end <= now)
        running = sum(RESERVED_S for run in self.runs if run.begin <= now < run.end)
        return Official(
            used_s=3600 * over,
            reserved_s=running,
            total_s=30 * 3600,
            refresh_at=self.start + timedelta(days=7),
        )

    def truth_h(self, now: datetime) -> float:
        return sum(run.within_h(self.start, now) for run in self.runs)


@pytest.fixture
def played(alice: User) -> Callable[..., list[Played]]:
    """played(colab=7, kaggle=7, days=7, seed=1): workers on four accounts of each kind, or on as many as there are."""

    def make(*, colab: int, kaggle: int, days: float, seed: int) -> list[Played]:
        accounts: list[Played] = []
        for kind, workers in (("colab", colab), ("kaggle", kaggle)):
            for number in range(min(4, workers)):
                account = account_create(owner=alice, kind=kind, label=f"{kind}-{number + 1}")
                terms = terms_of(account)
                assert terms is not None
                terms_acknowledge(account=account, version=terms.version, by="alice")
                told = kind == "kaggle" and number != 1
                one = Played(account, told, SATURDAY if told else MONDAY)
                for serial in range(number, workers, 4):
                    one.runs += week_of(
                        f"{kind}-{serial + 1}",
                        start=one.start,
                        days=days,
                        longest_h=8.4 if kind == "kaggle" else 11.4,
                        hours=days / 7 * (15 if kind == "kaggle" else 30),
                        may_vanish=told,
                        seed=f"{seed} {kind} {serial}",
                    )
                accounts.append(one)
        return accounts

    return make


def play(accounts: list[Played], *, days: float) -> list[tuple[Played, float, float]]:
    """Everything happens in its order: posts reach the stream, machines join, the provider is read, silence is noticed.

    Returns for each account the true hours of its week, and by how many seconds the books are wrong: read when the
    sessions that ran across the reset have been heard again.
    """
    ends = {one.start: one.start + timedelta(days=days, seconds=-1) for one in accounts}
    heard_again = timedelta(hours=1, minutes=5)
    until = max(ends.values()) + heard_again
    found: list[tuple[Played, float, float]] = []
    happenings: list[tuple[datetime, int, object]] = []
    for one in accounts:
        for run in one.runs:
            if run.joins:
                happenings.append((run.begin, 0, (one.account, run)))
            happenings += [(sent.at, 1, sent) for sent in run.posts]
    begin = min(at for at, _, _ in happenings)
    moment = begin.replace(minute=0, second=0)
    while (moment := moment + timedelta(minutes=20)) < until:
        happenings.append((moment, 2, None))
    happenings += [(end + heard_again, 3, start) for start, end in ends.items()]
    workers: dict[str, Worker] = {}
    for at, _, what in sorted(happenings, key=lambda happening: happening[:2]):
        if at > until:
            break
        if isinstance(what, Sent):
            post(workers[what.worker], what)
            continue
        intake_drain(now=at)
        if isinstance(what, datetime):
            found += [error(one, now=at) for one in accounts if one.start == what]
            continue
        if isinstance(what, tuple):
            workers[what[1].worker] = join(*what, now=at)
            continue
        notice_silence(at)
        for one in accounts:
            if one.told and one.start <= at < ends[one.start] and at.minute == 0:
                official_take(account=one.account, said=one.official(at), at=at)
    return found


def join(account: Account, run: Run, *, now: datetime) -> Worker:
    token = enrollment_token_issue(account=account, now=now)
    said = worker_enroll(
        post=wire.EnrollPost(token=token, name=run.worker, session_runtime_hours=0.0), now=now
    )
    return Worker.objects.get(pk=said.worker_id)


def post(worker: Worker, sent: Sent) -> None:
    body = {
        "worker_id": worker.pk,
        "epoch": worker.epoch,
        "timestamp": sent.clock.isoformat(),
        "session_runtime_hours": round(sent.runtime_h, 5),
        "status": wire.ENDED if sent.last else "idle",
    }
    append(json.dumps(body), at=sent.at)


def notice_silence(now: datetime) -> None:
    for worker in Worker.objects.filter(state__in=LISTENING):
        limit = timedelta(seconds=overdue_s(worker.check_interval_s, missing=2))
        if worker.last_seen_at is None or now - worker.last_seen_at <= limit:
            continue
        reason = because(
            "posts_missing", silent_s=(now - worker.last_seen_at).total_seconds(), interval_s=60.0
        )
        advance(worker, WorkerState.SUSPECT, reason=reason, now=now)
        worker_lost(worker, reason=reason, now=now)


def error(one: Played, *, now: datetime) -> tuple[Played, float, float]:
    """Of the week that began at its start, as far as that has come."""
    account = Account.objects.get(pk=one.account.pk)
    reset = one.start + timedelta(days=7)
    use = week_use([account], now=min(now, reset - timedelta(microseconds=1)))[account.pk]
    truth_h = one.truth_h(min(now, reset))
    return one, truth_h, 3600 * (use.used_h - truth_h)


def show(seed: int, accounts: list[Played], found: list[tuple[Played, float, float]]) -> None:
    posts = sum(len(run.posts) for one in accounts for run in one.runs)
    killed = sum(not run.says for one in accounts for run in one.runs)
    sessions = sum(len(one.runs) for one in accounts)
    print(
        f"\nseed {seed}: {sessions} sessions, {killed} of them killed without a word, {posts} posts arrived"
    )
    print(f"{'account':<10} {'truth':>8} {'error':>8}")
    for one, truth_h, error_s in found:
        how = "provider's figure each hour" if one.told else "reports alone"
        print(f"{one.account.label:<10} {truth_h:>6.2f} h {error_s:>+6.1f} s  {how}")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_simulated_week_ends_within_a_minute_of_the_truth_for_every_account(
    valkey: object, played: Callable[..., list[Played]], seed: int
) -> None:
    accounts = played(colab=7, kaggle=7, days=7, seed=seed)
    found = play(accounts, days=7)
    show(seed, accounts, found)
    assert len(found) == 8
    assert all(abs(error_s) < 60 for _, _, error_s in found)


@pytest.mark.slow
def test_a_simulated_day_of_two_accounts_ends_within_a_minute_of_the_truth(
    valkey: object, played: Callable[..., list[Played]]
) -> None:
    accounts = played(colab=1, kaggle=1, days=1.5, seed=3)
    found = play(accounts, days=1.5)
    show(3, accounts, found)
    assert all(abs(error_s) < 60 for _, _, error_s in found)
