"""Whatever a job waits for, it is told what would let it start, and nothing that would be in vain."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.models import User

from core.reasons import catalogue
from pool import quota, select
from pool.models import Account, Job, Worker
from pool.reasons import remedy_of
from pool.services.accounts import account_create
from pool.services.jobs import jobs_dispatch
from tests.pool.conftest import NOON
from tests.pool.services.jobs import submit

NEVER_TOLD = {"kept_for_instance", "not_that_instance", "somebody_elses"}
"""Of single workers only: to a job, whoever does not fit for these reasons is not there."""

A_MOMENT = {"job_submitted", "job_retry_due", "job_after_over"}


def test_every_reason_why_a_job_waits_has_a_remedy() -> None:
    codes = set()
    for module in (select, quota):
        codes |= set(re.findall(r'because\(\s*"(\w+)"', Path(module.__file__).read_text()))
    codes |= {"near_week_limit", "near_session_limit", "week_too_short", "session_too_short"}
    codes |= {"job_retry", "job_after", "job_after_many"}
    assert len(codes) > 15
    assert not [code for code in codes - NEVER_TOLD - A_MOMENT if not remedy_of(code)]


@pytest.mark.parametrize("workers", [1, 2])
def test_where_only_switched_off_accounts_fit_nobody_is_told_to_start_a_worker(
    alice: User, enrol: Callable[..., Worker], workers: int
) -> None:
    for number in range(workers):
        enrol(f"w{number}")
    Account.objects.update(enabled=False)
    job = submit(alice)
    jobs_dispatch(now=NOON)
    waits = Job.objects.select_related("waiting").get(pk=job.pk).waiting
    assert waits is not None
    assert (waits.reason_code, waits.reason_params) == ("all_switched_off", {"workers": workers})
    assert "switch" in catalogue()[remedy_of("all_switched_off")]


def test_of_switched_off_and_silent_workers_the_silent_ones_are_to_be_started(
    alice: User, enrol: Callable[..., Worker]
) -> None:
    enrol("off")
    Account.objects.update(enabled=False)
    enrol("silent", into=account_create(owner=alice, kind="local", label="another"), online=False)
    job = submit(alice)
    jobs_dispatch(now=NOON)
    waits = Job.objects.select_related("waiting").get(pk=job.pk).waiting
    assert waits is not None
    assert (waits.reason_code, waits.reason_params) == ("none_online", {"workers": 1})
