"""A start whose worker has joined is running, whatever Kaggle's API says meanwhile."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pool.models import Worker
from pool.services import kaggle_accounts
from tests.pool.conftest import NOON
from tests.pool.services.kaggle.conftest import REF, S, join, look

pytestmark = pytest.mark.django_db


def at_work(worker: Worker, state: str = "online") -> None:
    Worker.objects.filter(pk=worker.pk).update(state=state)


def test_worker_that_joined_while_the_status_could_not_be_read_for_long(start, kaggle):
    row = look(start)
    worker = join(kaggle.latest(REF))
    kaggle.fail("GetKernelSessionStatus", status=503, times=100)
    row = look(row, NOON + timedelta(minutes=31))
    assert (row.state, row.worker, row.reason) == ("running", worker, "it has joined as Night 1")


def test_worker_that_joined_from_a_push_that_was_never_seen_again(start, kaggle):
    kaggle.fail("SaveKernel", lost=True)
    row = look(start)
    worker = join(kaggle.latest(REF))
    kaggle.fail("GetKernel", status=503, times=100)
    row = look(row, NOON + timedelta(minutes=16))
    assert (row.state, row.worker) == ("running", worker)
    kaggle.latest(REF).status = "COMPLETE"
    kaggle.faults.clear()
    row = look(row, NOON + timedelta(hours=2))
    assert (row.state, row.version) == ("ended", 1)


@pytest.mark.parametrize("status", [401, 403])
def test_worker_that_is_at_work_outlasts_a_no_of_any_length(start, kaggle, status):
    row = look(start)
    worker = join(kaggle.latest(REF))
    at_work(worker)
    kaggle.fail("GetKernelSessionStatus", status=status, times=3)
    for minutes in (2, 4, 60):
        row = look(row, NOON + timedelta(minutes=minutes))
        assert (row.state, row.worker) == ("running", worker)
    kaggle.fail("GetKernelSessionStatus", status=status, times=1)
    at_work(worker, "offline")
    row = look(row, NOON + timedelta(minutes=62))
    assert (row.state, row.next_at) == ("ended", None)


def test_over_is_not_believed_while_the_worker_posts(start, kaggle):
    row = look(start)
    worker = join(kaggle.latest(REF))
    at_work(worker)
    row = look(row, NOON + 30 * S)
    kaggle.latest(REF).status = "COMPLETE"  # of the version before, said late
    row = look(row, NOON + 200 * S)
    assert (row.state, row.reason) == ("running", "it has joined as Night 1")
    at_work(worker, "lost")
    assert look(row, NOON + 320 * S).state == "ended"


def test_worker_that_joins_while_the_start_is_being_given_up_wins(start, kaggle, monkeypatch):
    row = look(start)
    kaggle.kernels[REF][0].status = "RUNNING"
    kaggle.fail("GetKernelSessionStatus", status=404, times=2)
    row = look(row, NOON + 30 * S)
    real = kaggle_accounts.Kaggle.run

    def run(self, owner, slug):
        join(kaggle.latest(REF))
        return real(self, owner, slug)

    monkeypatch.setattr(kaggle_accounts.Kaggle, "run", run)
    row = look(row, NOON + timedelta(minutes=5))
    assert (row.state, row.reason) == ("running", "it has joined as Night 1")
