"""Sessions at Kaggle are asked for, or refused at once with the reason; and taken back."""

from __future__ import annotations

from datetime import timedelta

import pytest

from core.errors import DomainError, Invalid, TransitionRefused
from pool.models import NotebookStart
from pool.providers.kaggle import KaggleRefused
from pool.services import kaggle_accounts
from pool.services.accounts import account_create
from pool.services.enrollment import EnrollmentRefused
from pool.services.kaggle_starts import start_cancel, start_request, starts_due
from pool.services.terms import TermsNotAcknowledged
from tests.pool.conftest import NOON, acknowledged
from tests.pool.services.kaggle.conftest import REF, S, join, look

pytestmark = pytest.mark.django_db


# -- what is refused at once ---------------------------------------------------------------------------


def test_one_start_at_a_time_for_each_name(start, account):
    for name in ("Night 1", "night-1"):  # Kaggle tells notebooks apart by their slugs
        with pytest.raises(DomainError, match="is being started as") as refused:
            start_request(account=account, name=name, by="alice")
        assert refused.value.code == "start_open"
    start_request(account=account, name="Night 2", by="alice")


@pytest.mark.parametrize("name", ["", "  ", "---", "a" * 81, "\x00"])
def test_name_that_is_none(account, name):
    with pytest.raises(Invalid, match="is no worker's name"):
        start_request(account=account, name=name, by="alice")


def test_account_must_be_kaggles_switched_on_acknowledged_and_hold_a_token(alice, account):
    colab = acknowledged(account_create(owner=alice, kind="colab", label="c"))
    with pytest.raises(Invalid, match="started at Kaggle only"):
        start_request(account=colab, name="w", by="alice")
    bare = account_create(owner=alice, kind="kaggle", label="bare")
    with pytest.raises(TermsNotAcknowledged, match="One account for one person"):
        start_request(account=bare, name="w", by="alice")
    with pytest.raises(KaggleRefused, match="hold no Kaggle token"):
        start_request(account=acknowledged(bare), name="w", by="alice")
    account.enabled = False
    with pytest.raises(Invalid, match="switched off"):
        start_request(account=account, name="w", by="alice")
    with pytest.raises(Invalid, match="accelerator"):
        start_request(account=bare, name="w", by="alice", accelerator="abacus")
    assert NotebookStart.objects.count() == 0


# -- taken back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("looks", [0, 1])
def test_start_that_is_taken_back_is_over_and_its_notebook_opens_nothing(start, kaggle, looks):
    row = look(start) if looks else start
    row = start_cancel(row=row, by="alice", now=NOON + 5 * S)
    assert (row.state, row.reason, row.next_at) == ("ended", "taken back by alice", None)
    assert len(kaggle.called("SaveKernel")) == looks
    if looks:
        with pytest.raises(EnrollmentRefused):
            join(kaggle.latest(REF))
    assert list(starts_due(now=NOON + timedelta(hours=1))) == []
    with pytest.raises(TransitionRefused):
        start_cancel(row=row, by="alice")


def test_start_that_is_taken_back_during_a_look_is_not_pushed(start, kaggle, monkeypatch):
    real = kaggle_accounts.Kaggle.version

    def version(self, owner, slug):
        start_cancel(row=start, by="alice", now=NOON)
        return real(self, owner, slug)

    monkeypatch.setattr(kaggle_accounts.Kaggle, "version", version)
    assert look(start).state == "ended"
    assert kaggle.called("SaveKernel") == []


def test_start_whose_worker_has_joined_is_ended_by_revoking_it(start, kaggle):
    row = look(start)
    worker = join(kaggle.latest(REF))
    with pytest.raises(DomainError, match="has joined as Night 1") as refused:
        start_cancel(row=row, by="alice")
    assert refused.value.code == "start_joined" and f"/api/workers/{worker.pk}/revoke" in refused.value.hint
    assert look(row, NOON + 30 * S).state == "running"
