"""One message wakes the dispatcher, however many have rung; and nobody who rang is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction

from core import broker
from pool.models import Job
from pool.services import bell
from pool.services.bell import RUNG, RUNG_MS, dispatcher_ring
from pool.services.job_spec import JobSpec
from pool.services.submission import job_submit
from pool.tasks import dispatch_tick

pytestmark = pytest.mark.django_db(transaction=True)


def messages() -> int:
    return int(broker.client().llen("tick"))


def test_a_thousand_rings_before_a_run_are_one_message(valkey: Any, alice: User) -> None:
    for _ in range(5):
        job_submit(owner=alice, spec=JobSpec(command=["true"]))
    with transaction.atomic():
        for _ in range(1_000):
            dispatcher_ring()
        assert messages() == 1
    assert messages() == 1


def test_who_rings_after_a_run_began_is_heard(
    valkey: Any, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_submit(owner=alice, spec=JobSpec(command=["true"]))
    dispatch = bell.dispatcher_begins

    def begins() -> None:
        dispatch()
        job_submit(owner=alice, spec=JobSpec(command=["true"], name="late"))

    monkeypatch.setattr(bell, "dispatcher_begins", begins)
    dispatch_tick()
    assert messages() == 2 and Job.objects.filter(name="late").exists()


def test_a_message_that_was_lost_keeps_nobody_silent(valkey: Any, alice: User) -> None:
    dispatcher_ring()
    assert 0 < broker.client().pttl(RUNG) <= RUNG_MS
    valkey.kill()
    job_submit(owner=alice, spec=JobSpec(command=["true"]))
    valkey.restart()
    broker.client().flushall()
    dispatcher_ring()
    assert messages() == 1
