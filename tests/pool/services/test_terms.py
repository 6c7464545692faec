"""What the providers forbid is acknowledged by somebody, for somebody, in a version, before a worker is enrolled."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.contrib.auth.models import User

from agent import wire
from core.errors import Invalid
from pool import terms as texts
from pool.models import TermsAcknowledgement, Worker
from pool.services.accounts import account_create, account_delete, account_update
from pool.services.enrollment import enrollment_token_issue, worker_enroll
from pool.services.terms import TermsNotAcknowledged, terms_acknowledge, terms_acknowledgement
from pool.terms import COLAB, TERMS
from tests.pool.conftest import NOON, acknowledged

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@pytest.mark.parametrize("kind", TERMS)
def test_no_token_is_made_before_somebody_has_acknowledged(alice, kind):
    account = account_create(owner=alice, kind=kind, label="a")
    with pytest.raises(TermsNotAcknowledged, match="nobody has acknowledged yet") as refused:
        enrollment_token_issue(account=account, now=NOON)
    assert TERMS[kind].sentences[0] in refused.value.message
    assert f'"acknowledged_terms": "{TERMS[kind].version}"' in refused.value.hint
    acknowledged(account)
    assert enrollment_token_issue(account=account, now=NOON)


@pytest.mark.parametrize("kind", ["local", "vast"])
def test_machines_of_ones_own_need_nothing(alice, kind):
    account = account_create(owner=alice, kind=kind, label="a")
    assert enrollment_token_issue(account=account, now=NOON)
    with pytest.raises(Invalid, match="nothing to acknowledge"):
        terms_acknowledge(account=account, version="2026-11-21", by="alice")


def test_record_says_who_when_and_which_version_and_is_written_once(alice):
    account = account_create(owner=alice, kind="colab", label="a")
    first = terms_acknowledge(account=account, version=COLAB.version, by="ops", now=NOON)
    again = terms_acknowledge(account=account, version=COLAB.version, by="somebody else")
    assert first == again
    assert (first.by, first.at, first.version, first.owner) == ("ops", NOON, COLAB.version, alice)
    assert TermsAcknowledgement.objects.count() == 1


def test_record_outlives_its_account(alice):
    account = acknowledged(account_create(owner=alice, kind="colab", label="a"))
    account_delete(account)
    row = TermsAcknowledgement.objects.get()
    assert (row.account, row.label, row.owner, row.version) == (None, "colab a", alice, COLAB.version)


def test_text_that_changes_is_asked_for_again_also_of_whoever_holds_a_token(alice, monkeypatch):
    account = acknowledged(account_create(owner=alice, kind="colab", label="a"))
    token = enrollment_token_issue(account=account, now=NOON)
    monkeypatch.setitem(texts.TERMS, "colab", replace(COLAB, version="2027-01-01"))
    with pytest.raises(TermsNotAcknowledged, match="text of 2027-01-01"):
        worker_enroll(post=wire.EnrollPost(token=token), now=NOON)
    with pytest.raises(Invalid, match="is not the current one, which is 2027-01-01"):
        terms_acknowledge(account=account, version=COLAB.version, by="alice")
    terms_acknowledge(account=account, version="2027-01-01", by="alice")
    worker_enroll(post=wire.EnrollPost(token=token), now=NOON)
    assert Worker.objects.count() == 1


def test_account_that_changes_hands_is_asked_for_anew(alice: User, bob: User):
    account = acknowledged(account_create(owner=alice, kind="colab", label="a"))
    account_update(account=account, owner=bob)
    assert terms_acknowledgement(account) is None
    with pytest.raises(TermsNotAcknowledged):
        enrollment_token_issue(account=account, now=NOON)
