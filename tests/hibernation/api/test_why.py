"""Over HTTP: why an instance is awake or asleep, and what sleeping saved."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from core.models import Chain
from core.transitions import advance
from hibernation.models import Box, Instance
from hibernation.reasons import because
from hibernation.services.schedules import schedule_set
from hibernation.services.verdicts import verdicts_tick
from hibernation.states import InstanceState
from tests.hibernation.api.answers import refused
from tests.hibernation.rows import asleep_of, instance_of, person

pytestmark = pytest.mark.django_db


# -- why, savings -----------------------------------------------------------------------------------------------------------


def test_why_says_what_keeps_it_awake_and_what_comes_next(api: Any, alice: Any) -> None:
    now = timezone.now()
    instance = instance_of(alice, awake_since=now - timedelta(hours=1))
    for ago in (90, 60, 30, 1):
        instance.worker.samples.create(epoch=1, at=now - timedelta(seconds=ago), gpu_util=2.0)
    verdicts_tick(timezone.now())
    schedule_set(instance, wake_time=None, sleep_time="18:00", timezone="UTC", by="alice")
    body = api.get(f"/api/instances/{instance.pk}/why").json()
    assert (body["status"], body["code"]) == ("idle", "idle_counting")
    assert "below 5 % since" in body["why"]
    assert {item["what"] for item in body["next"]} == {"hibernate", "sleep"}
    assert len(body["verdict"]["samples"]) == 4
    assert body["verdict"]["idle"]
    assert (body["slept"], body["woke"], body["progress"]) == (None, None, None)


def test_why_says_why_it_stopped_and_when_it_will_wake(api: Any, alice: Any) -> None:
    instance = asleep_of(alice)
    Instance.objects.filter(pk=instance.pk).update(state=InstanceState.RUNNING)
    api.post(f"/api/instances/{instance.pk}/hibernate")
    Chain.objects.all().delete()
    Instance.objects.filter(pk=instance.pk).update(state=InstanceState.HIBERNATED)
    instance.refresh_from_db()
    schedule_set(instance, wake_time="09:00", sleep_time=None, timezone="UTC", by="alice")
    body = api.get(f"/api/instances/{instance.pk}/why").json()
    assert body["slept"]["reason"] == "alice asked for it"
    assert body["slept"]["by"] == "alice"
    assert [item["what"] for item in body["next"]] == ["delete", "wake"]
    assert body["verdict"] is None


def test_savings_show_measured_and_estimated_apart(api: Any, alice: Any) -> None:
    now = timezone.now()
    hours = timedelta(hours=1)
    instance = asleep_of(alice, price="0.50")
    Box.objects.filter(instance=instance).update(rented_at=now - 10 * hours, gone_at=now - 8 * hours)
    snapshot = instance.snapshot
    type(snapshot).objects.filter(pk=snapshot.pk).update(
        committed_at=now - 8 * hours, stored_bytes=90 * 10**9
    )
    body = api.get(f"/api/instances/{instance.pk}/savings").json()
    assert body["gpu"] == {"basis": "measured", "hours": 2.0, "usd": "1.0000"}
    assert body["storage"]["basis"] == "estimated"
    assert Decimal(body["storage"]["usd"]) == Decimal("0.0150")
    assert float(body["always_on"]["usd"]) == pytest.approx(5.0, abs=0.01)
    assert float(body["saved_usd"]) == pytest.approx(3.985, abs=0.01)
    assert body["saved_percent"] == pytest.approx(79.7, abs=0.1)
    assert body["lines"][0] == "GPU: 2.000 h, $1.0000 (measured)"


def test_savings_of_all_are_the_sum_and_only_of_ones_own(api: Any, alice: Any) -> None:
    now = timezone.now()
    for number in range(2):
        instance = instance_of(alice, name=str(number), price="0.50")
        Box.objects.filter(instance=instance).update(rented_at=now - timedelta(hours=2))
    Box.objects.filter(instance=instance_of(person("bob"))).update(rented_at=now - timedelta(hours=2))
    body = api.get("/api/savings").json()
    assert [row["name"] for row in body["instances"]] == ["0", "1"]
    assert float(body["gpu"]["usd"]) == pytest.approx(2.0, abs=0.01)
    assert body["saved_percent"] == pytest.approx(0, abs=0.01)


def test_a_period_is_checked(api: Any, alice: Any) -> None:
    instance = instance_of(alice)
    path = f"/api/instances/{instance.pk}/savings"
    today = f"{timezone.now():%Y-%m-%d}"
    assert api.get(path, {"start": "2026-11-01", "end": today}).json()["start"] == "2026-11-01T00:00:00Z"
    assert "is not a time" in refused(api.get(path, {"start": "yesterday"}), 400)["message"]
    assert "is not a time" in refused(api.get(path, {"start": "2026-13-01"}), 400)["message"]
    assert "is not a time" in refused(api.get(path, {"start": "2026-11-01T00:00:00"}), 400)["message"]
    assert "is empty" in refused(api.get(path, {"start": "2020-02-01", "end": "2020-01-01"}), 400)["message"]
    whole = api.get(path, {"start": "2020-01-01", "end": "2999-01-01"}).json()
    assert whole["end"] < "2999", "the future is not counted"


def test_time_paid_for_sleeping_is_counted(api: Any, alice: Any) -> None:
    now = timezone.now()
    instance = asleep_of(alice)
    steps = (
        (InstanceState.WAKING, 100, because("wake_asked", by="alice")),
        (InstanceState.HIBERNATED, 90, because("awake_no_reading")),
        (InstanceState.WAKING, 80, because("wake_asked", by="alice")),
        (InstanceState.RUNNING, 50, because("awake_no_reading")),
    )
    for state, ago, reason in steps:
        advance(instance, state, reason=reason, now=now - timedelta(seconds=ago))
    time = api.get(f"/api/instances/{instance.pk}/savings").json()["paid_in_time"]
    assert time == {
        "wakes": 1,
        "failed_wakes": 1,
        "hibernations": 0,
        "stopped_hibernations": 0,
        "waiting_s": 40.0,
    }
