"""Kaggle's own figure, from its API into the account's week. The figures are those of the simulated Kaggle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from pool.models import Account, Worker
from pool.services.accounts import account_create
from pool.services.intake import intake_drain
from pool.services.kaggle_accounts import quota_read
from pool.usage import readings, week_use
from tests.pool.conftest import NOON
from tests.simulators.kaggle import KaggleDouble


@pytest.fixture
def kaggle(settings: Any) -> Iterator[KaggleDouble]:
    with KaggleDouble() as double:
        double.person("ana")
        settings.KAGGLE_API_URL = double.base_url
        yield double


@pytest.fixture
def account(alice: User, kaggle: KaggleDouble) -> Account:
    token = json.dumps({"api_token": kaggle.people["ana"].token})
    return account_create(owner=alice, kind="kaggle", label="k", credentials=token)


def test_what_kaggle_says_is_what_selection_reads(
    account: Account, kaggle: KaggleDouble, enrol: Callable[..., Worker], stream: Callable[..., str]
) -> None:
    worker = enrol("k", into=account)
    later = NOON + timedelta(hours=1)
    stream(worker, at=later, session_runtime_hours=1.0, status="ended")
    intake_drain(now=later)
    kaggle.people["ana"].used_s = 22 * 3600.0
    kaggle.people["ana"].refresh_at = "2026-11-21T00:00:00Z"
    quota_read(account, now=later)
    (read,) = readings(Worker.objects.select_related("account"), now=later).values()
    assert (read.used, read.safe) == (22, False)
    account.refresh_from_db()
    assert (account.reset_weekday, account.reset_hour) == (5, 0)  # Saturday, as Kaggle says
    assert week_use([account], now=later)[account.pk].difference_h == pytest.approx(21)


def test_an_unread_figure_leaves_what_was_known(account: Account, kaggle: KaggleDouble) -> None:
    kaggle.people["ana"].used_s = 7200.0
    quota_read(account, now=NOON)
    kaggle.people.clear()
    quota_read(account, now=NOON + timedelta(hours=1))
    account.refresh_from_db()
    use = week_use([account], now=NOON + timedelta(hours=2))[account.pk]
    assert (use.used_h, use.official_at) == (2, NOON)
