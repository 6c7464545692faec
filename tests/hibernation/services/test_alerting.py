"""What hibernation and its snapshots say is wrong, and that they say so no longer once it is not."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from core import chains
from core.alerts.causes import Finding
from core.chain_states import ChainState
from core.models import Chain
from core.reasons import because
from core.transitions import advance
from hibernation.models import Box, Instance
from hibernation.providers.base import BoxFacts, Phase
from hibernation.services import reconcile
from hibernation.services.alerting import STILL_THERE, TOLD_AGAIN, boxes_that_cost, instances_in_trouble
from hibernation.states import BoxState, InstanceState
from snapshots.models import Snapshot
from snapshots.services.alerting import generations_damaged
from snapshots.states import SnapshotState
from tests.hibernation.rows import T0, account_of, asleep_of, at, instance_of, person

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


def found(look: Any, now: datetime = T0) -> dict[str, Finding]:
    """Cause -> what was found; each cause at most once in these tests."""
    return {finding.reason.code: finding for finding in look(now)}


# -- boxes ----------------------------------------------------------------------------------------------------------


def going(instance: Instance) -> Box:
    box = Box.objects.get(instance=instance)
    Box.objects.filter(pk=box.pk).update(
        state=BoxState.DESTROYING, state_since=T0, destroy_asked_at=T0, discarded_by="alice"
    )
    box.refresh_from_db()
    return box


def test_a_box_that_will_not_go_is_told_of_with_its_price_until_it_is_gone() -> None:
    owner = person()
    box = going(instance_of(owner, name="studio", price="0.42"))
    assert found(boxes_that_cost, T0 + STILL_THERE - timedelta(seconds=1)) == {}
    finding = found(boxes_that_cost, T0 + STILL_THERE)["box_will_not_go"]
    assert str(finding.reason) == (
        "box ref-1 of instance studio was asked to go at 2026-11-21T14:30:00+00:00 and is still billed, $0.42 an hour"
    )
    assert (finding.subject_id, finding.owner_id) == (box.pk, owner.pk)
    advance(box, BoxState.GONE, reason=because("box_seen_gone"), now=at(900), gone_at=at(900))
    assert found(boxes_that_cost, at(901)) == {}


def test_a_stranded_box_is_told_of_at_once() -> None:
    instance = instance_of(person())
    Box.objects.update(
        state=BoxState.STRANDED,
        state_since=T0,
        reason_code="box_stranded",
        reason_params={"ref": "ref-1", "price": 0.5, "generation": "3"},
    )
    finding = found(boxes_that_cost)["box_is_stranded"]
    assert "of instance studio came back" in str(finding.reason)
    assert "it holds work since generation 3 that is nowhere else" in str(finding.reason)
    assert finding.owner_id == instance.owner_id


def test_an_unknown_box_is_told_of_as_long_as_it_is_listed() -> None:
    account = account_of(person())
    facts = BoxFacts(ref="77", label="dormouse-x-1", phase=Phase.RUNNING, price_usd_per_h=None)
    reconcile._tell(account, None, reconcile.UNKNOWN, facts, now=T0)
    finding = found(boxes_that_cost)["box_is_unknown"]
    assert "the provider lists 77" in str(finding.reason)
    assert finding.subject_id == f"{account.pk}:77"
    again = T0 + reconcile.TELL_AGAIN + timedelta(seconds=1)
    reconcile._tell(account, None, reconcile.UNKNOWN, facts, now=again)
    assert len(found(boxes_that_cost, T0 + TOLD_AGAIN)) == 1
    assert found(boxes_that_cost, again + TOLD_AGAIN) == {}


# -- instances ------------------------------------------------------------------------------------------------------


def woken(instance: Instance, *, ended: ChainState | None, now: datetime) -> Chain:
    chain = chains.chain_start(
        "wake",
        subject_type=Instance.SUBJECT,
        subject_id=instance.pk,
        owner_id=instance.owner_id,
        reason=because("wake_asked", by="alice"),
        now=now,
    )
    if ended is not None:
        reason = because("wake_gave_up", tried=3, why="no offer")
        advance(chain, ended, reason=reason, now=now, ended_at=now, next_at=None, lease_until=None)
    return chain


def test_a_wake_that_failed_is_told_of_until_it_is_tried_again() -> None:
    owner = person()
    instance = asleep_of(owner)
    assert found(instances_in_trouble) == {}
    woken(instance, ended=ChainState.FAILED, now=T0)
    finding = found(instances_in_trouble)["wake_failed"]
    assert str(finding.reason) == "instance studio could not be woken: 3 boxes were tried: no offer"
    assert (finding.subject_id, finding.owner_id) == (instance.pk, owner.pk)
    woken(instance, ended=None, now=at(60))
    assert found(instances_in_trouble, at(61)) == {}


def test_a_wake_that_somebody_stopped_is_no_failure() -> None:
    woken(asleep_of(person()), ended=ChainState.ABORTED, now=T0)
    assert found(instances_in_trouble) == {}


def test_a_wake_that_failed_is_told_of_when_the_instance_counts_as_deleted_and_for_a_week() -> None:
    instance = asleep_of(person())
    woken(instance, ended=ChainState.FAILED, now=T0)
    Instance.objects.update(state=InstanceState.DELETED)
    assert set(found(instances_in_trouble, at(3600))) == {"wake_failed"}
    assert found(instances_in_trouble, T0 + timedelta(days=7)) == {}


def test_a_lost_instance_and_one_in_between_for_too_long_are_told_of() -> None:
    instance = instance_of(person())
    reason = because("box_vanished", box="ref-1", generation="2")
    Instance.objects.update(state=InstanceState.LOST, **Instance.reason_columns(reason))
    finding = found(instances_in_trouble)["instance_is_lost"]
    assert "the last verified generation is 2" in str(finding.reason)
    Instance.objects.update(state=InstanceState.WAKING, state_since=T0)
    assert found(instances_in_trouble, T0 + timedelta(hours=12)) == {}
    late = found(instances_in_trouble, T0 + timedelta(hours=12, seconds=1))["instance_overdue"]
    assert str(late.reason) == "instance studio is waking for longer than 720 minutes"
    assert late.subject_id == instance.pk


# -- snapshots ------------------------------------------------------------------------------------------------------


def test_a_damaged_generation_is_told_of_until_it_is_whole_again() -> None:
    instance = asleep_of(person())
    generation = Snapshot.objects.get()
    assert found(generations_damaged) == {}
    damage = because("snapshot_not_whole", problems=1, first="pack x is missing")
    advance(generation, SnapshotState.DAMAGED, reason=damage, now=T0)
    finding = found(generations_damaged)["generation_is_damaged"]
    assert "pack x is missing" in str(finding.reason) and instance.pk in str(finding.reason)
    assert finding.owner_id == instance.owner_id
    advance(generation, SnapshotState.VERIFIED, reason=because("snapshot_whole_again", packs=1), now=at(60))
    assert found(generations_damaged) == {}


def test_sleeping_instances_cost_no_query_each(django_assert_max_num_queries: Any) -> None:
    owner = person()
    account = account_of(owner)
    for number in range(6):
        instance = asleep_of(owner, name=f"i{number}", account=account)
        woken(instance, ended=ChainState.FAILED, now=T0)
    with django_assert_max_num_queries(7):
        assert len(list(instances_in_trouble(T0))) == 6
