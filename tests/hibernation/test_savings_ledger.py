"""The ledger, filled from the rows: what ends, what is lost, what is kept."""

from __future__ import annotations

from typing import Any

import pytest

from core.transitions import advance
from hibernation.models import Box, Instance
from hibernation.reasons import because
from hibernation.savings import Ledger
from hibernation.services.instances import instance_delete
from hibernation.services.ledger import figures_of
from hibernation.states import BoxState, InstanceState
from snapshots.models import Snapshot
from tests.hibernation.rows import asleep_of, at, box_of, instance_of, person, snapshot_of

pytestmark = pytest.mark.django_db

HOUR = 3600


@pytest.fixture
def alice() -> Any:
    return person("alice")


def money(instance: Instance, *, hours: int) -> Ledger:
    instance.refresh_from_db()
    return figures_of([instance], start=at(0), end=at(hours * HOUR))[instance.pk].money


def rented(instance: Instance, start_h: float, end_h: float | None = None) -> Instance:
    gone_at = None if end_h is None else at(end_h * HOUR)
    state = BoxState.RUNNING if end_h is None else BoxState.GONE
    Box.objects.filter(instance=instance).update(rented_at=at(start_h * HOUR), gone_at=gone_at, state=state)
    return instance


def test_each_box_is_billed_for_its_own_time_at_its_own_price(alice: Any) -> None:
    instance = rented(instance_of(alice, price="0.50", epoch=2), 0, 2)
    box_of(instance, epoch=3, price="0.80", rented_at=at(4 * HOUR))
    book = money(instance, hours=5)
    assert (book.gpu_h, float(book.gpu_usd)) == (3, 2 * 0.5 + 1 * 0.8)
    assert float(book.always_on_usd) == 5 * 0.5, "always on is the price of the first box"


def test_a_box_that_the_provider_never_created_costs_nothing(alice: Any) -> None:
    instance = instance_of(alice)
    Box.objects.filter(instance=instance).update(rented_at=None, provider_ref="", state=BoxState.REFUSED)
    assert money(instance, hours=5) == Ledger()


def test_a_box_that_will_not_go_is_billed_until_it_is_seen_to_be_gone(alice: Any) -> None:
    instance = rented(instance_of(alice), 0)
    snapshot = snapshot_of(instance)
    Box.objects.update(state=BoxState.DESTROYING, safe_snapshot=snapshot, safe_epoch=1)
    assert money(instance, hours=5).gpu_h == 5


def test_what_its_policy_deleted_goes_on_saving_and_what_its_owner_gave_up_does_not(alice: Any) -> None:
    kept = rented(asleep_of(alice, name="kept"), 0, 1)
    given_up = rented(asleep_of(alice, name="given up"), 0, 1)
    paused = because("paused_long_enough", minutes=30, generation=1)
    advance(kept, InstanceState.DELETED, reason=paused, now=at(2 * HOUR))
    instance_delete(given_up, discard=False, by="alice", now=at(2 * HOUR))
    assert money(kept, hours=10).always_on_h == 10
    assert money(given_up, hours=10).always_on_h == 2


def test_hours_in_which_the_provider_had_lost_it_are_neither_counted_nor_saved(alice: Any) -> None:
    instance = rented(instance_of(alice), 0)
    lost = because("box_vanished", box="ref-1", generation=1)
    advance(instance, InstanceState.LOST, reason=lost, now=at(2 * HOUR))
    assert money(instance, hours=4).unserved_h == 2
    advance(instance, InstanceState.RUNNING, reason=because("box_answers"), now=at(5 * HOUR))
    book = money(instance, hours=10)
    assert (book.unserved_h, book.always_on_h) == (3, 7)


def test_a_snapshot_is_paid_for_from_its_commit_until_it_is_let_go(alice: Any) -> None:
    instance = rented(asleep_of(alice), 0, 1)
    gb = 10**9
    rows = Snapshot.objects.filter(workspace_ref=instance.pk)
    rows.update(committed_at=at(0), stored_bytes=72 * gb)
    assert float(money(instance, hours=10).storage_gb_months) == pytest.approx(1.0)
    rows.update(state="deleted", state_since=at(5 * HOUR))
    assert float(money(instance, hours=10).storage_gb_months) == pytest.approx(0.5)
    rows.update(committed_at=None, state="failed")
    assert money(instance, hours=10).storage_gb_months == 0
