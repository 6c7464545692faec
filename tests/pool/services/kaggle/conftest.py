"""Kaggle as a double, an account there, a start that was asked for, and what ticks and notebooks do with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.contrib.auth.models import User

from agent import wire
from pool.models import Account, NotebookStart, Worker
from pool.services.accounts import account_create
from pool.services.enrollment import worker_enroll
from pool.services.kaggle_starts import start_request
from pool.services.kaggle_steps import start_step
from tests.pool.conftest import NOON, acknowledged
from tests.simulators.kaggle import KaggleDouble, Version

S = timedelta(seconds=1)
REF = "ana/dormouse-night-1"


@pytest.fixture
def kaggle(settings) -> Iterator[KaggleDouble]:
    with KaggleDouble() as double:
        double.person("ana")
        settings.KAGGLE_API_URL = double.base_url
        yield double


@pytest.fixture
def account(alice: User, kaggle: KaggleDouble) -> Account:
    token = json.dumps({"api_token": kaggle.people["ana"].token})
    return acknowledged(account_create(owner=alice, kind="kaggle", label="k", credentials=token))


@pytest.fixture
def start(account: Account) -> NotebookStart:
    return start_request(account=account, name="Night 1", by="alice", now=NOON)


def look(row: NotebookStart, at=NOON) -> NotebookStart:
    """One look by a tick that reads the row afresh, at that time whether it is due or not."""
    fresh = NotebookStart.objects.select_related("account", "worker").get(pk=row.pk)
    start_step(fresh, clock=lambda: at)
    return NotebookStart.objects.select_related("account", "worker").get(pk=row.pk)


def join(version: Version, name: str = "") -> Worker:
    """What the notebook does at Kaggle: trade the token that stands in it."""
    token, name = (
        re.search(rf'^{key} = "(.*)"', version.source, re.M)[1] for key in ("JOIN_TOKEN", "WORKER_NAME")
    )
    given = worker_enroll(post=wire.EnrollPost(token=token, name=name, provider="kaggle"), now=NOON)
    return Worker.objects.get(pk=given.worker_id)
