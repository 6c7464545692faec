"""Kaggle's own figure of an account's quota: read, kept with its age, and kept when Kaggle is away."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pool.models import OfficialQuota
from pool.services.accounts import account_create
from pool.services.kaggle_accounts import official_quota, quota_read, quotas_due
from tests.pool.conftest import NOON
from tests.pool.services.kaggle.conftest import look

pytestmark = pytest.mark.django_db


def test_official_quota_is_read_and_kept_with_its_age(account, kaggle):
    kaggle.people["ana"].used_s = 45_000.25
    assert list(quotas_due(now=NOON)) == [account]
    quota_read(account, now=NOON)
    row = official_quota(account)
    assert (row.used_s, row.reserved_s, row.total_s, row.read_at) == (45_000.25, 0, 108_000, NOON)
    assert row.refresh_at.isoformat() == "2026-11-28T00:00:00+00:00"
    assert list(quotas_due(now=NOON + timedelta(minutes=9))) == []
    assert list(quotas_due(now=NOON + timedelta(minutes=11))) == [account]


def test_running_session_is_reserved(start, account, kaggle):
    look(start)
    quota_read(account, now=NOON)
    assert official_quota(account).reserved_s == 8.75 * 3600


def test_failure_is_kept_beside_the_last_good_figure(account, kaggle):
    quota_read(account, now=NOON)
    kaggle.people.clear()
    later = NOON + timedelta(minutes=11)
    quota_read(account, now=later)
    row = official_quota(account)
    assert (row.total_s, row.read_at, row.tried_at) == (108_000, NOON, later)
    assert "does not take the account's token" in row.error


def test_account_without_a_token_is_not_asked_about(alice, kaggle):
    bare = account_create(owner=alice, kind="kaggle", label="bare")
    quota_read(bare, now=NOON)
    assert kaggle.calls == []
    assert official_quota(bare) is None
    assert OfficialQuota.objects.get().error == ""
