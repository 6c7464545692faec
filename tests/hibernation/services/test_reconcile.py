"""The provider's truth against ours: what came back, what nobody knows, and whose turn it is."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from core.errors import TransitionRefused
from core.models import Event, Lease
from hibernation.models import Box, Instance
from hibernation.providers.base import BoxSpec, OfferQuery
from hibernation.providers.local_faults import FaultKind as K
from hibernation.services import boxes, pursuit
from hibernation.services.instances import instance_delete
from hibernation.services.lifecycle import overdue_mark
from hibernation.services.reconcile import account_reconcile, accounts_to_reconcile
from hibernation.states import BoxState, InstanceState
from pool.models import Account
from tests.hibernation.rows import account_of, person
from tests.hibernation.world import World, hidden, instance_state, listed, worker_of


def create_at_the_provider(account: Account, label: str) -> str:
    provider = boxes.provider_of(account)
    spec = BoxSpec(label=label, disk_bytes=10**9, url="http://127.0.0.1:1", join_token="none of ours")
    return provider.create(provider.offers(OfferQuery(disk_bytes=10**9))[0].id, spec)


def lost(world: World, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """An instance whose box the provider has lost, with new work on it."""
    instance = world.running()
    world.forward(60)
    with monkeypatch.context() as patch:
        hidden(world, instance, patch)
        world.reconcile(times=2)
    assert instance_state(instance) == InstanceState.LOST
    world.forward(60)
    return instance


# -- boxes that come back -------------------------------------------------------------------------------------------------


def test_a_lost_box_that_comes_back_is_never_destroyed_its_instance_has_it_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = lost(world, monkeypatch)
    kept = world.agent(instance).workspace
    world.reconcile()
    instance.refresh_from_db()
    box = world.box(instance)
    assert (instance.state, instance.reason_code) == (InstanceState.RUNNING, "box_found_again")
    assert (box.state, box.gone_at, box.absent_since) == (BoxState.RUNNING, None, None)
    assert (kept / "notes" / "today.txt").exists()
    world.agent(instance).post()
    world.hibernate(instance)
    assert world.run(instance).state == "succeeded", "its agent was never told to stand down"


def test_a_lost_box_that_comes_back_too_late_is_stranded_until_a_person_decides(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its instance was given up meanwhile, without a word about what was on it."""
    instance = lost(world, monkeypatch)
    instance_delete(instance, discard=False, by="alice", now=world.now())
    world.reconcile(times=3)
    box = world.box(instance)
    assert (box.state, len(world.rented())) == (BoxState.STRANDED, 1)
    assert "nowhere else" in box.reason and "$0.36" in box.reason
    assert world.events(instance)[-1] == "box_stranded", "its owner reads of it where she looks"
    world.forward(2 * 3600)
    assert overdue_mark(now=world.now()) == 1
    assert world.events(box)[-1] == "overdue", "a person is told again"
    with pytest.raises(TransitionRefused):
        boxes.box_discard(box, by="", now=world.now())
    boxes.box_discard(box, by="alice", now=world.now())
    world.reconcile(times=4)
    box.refresh_from_db()
    assert (box.state, box.discarded_by, world.rented()) == (BoxState.GONE, "alice", [])


@pytest.mark.slow
def test_one_that_was_given_up_with_its_work_does_not_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = lost(world, monkeypatch)
    instance_delete(instance, discard=True, by="alice", now=world.now())
    world.reconcile(times=4)
    assert (world.box(instance).state, world.rented()) == (BoxState.GONE, [])


@pytest.mark.slow
def test_a_stranded_box_that_vanishes_is_gone_and_its_instance_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = lost(world, monkeypatch)
    instance_delete(instance, discard=False, by="alice", now=world.now())
    world.reconcile()
    assert world.box(instance).state == BoxState.STRANDED
    with monkeypatch.context() as patch:
        hidden(world, instance, patch)
        world.forward(60)
        world.reconcile(times=2)
    assert world.box(instance).state == BoxState.GONE
    assert instance_state(instance) == InstanceState.DELETED


def test_a_box_that_was_saved_and_comes_back_is_asked_to_go_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider said that it is gone, by list and by id, and it was not: it is billed, and nothing is lost with it."""
    instance = world.running()
    world.fault(K.DESTROY_IGNORED, count=2)
    world.hibernate(instance)
    world.run(instance, until="confirm")
    with monkeypatch.context() as patch:
        hidden(world, instance, patch)
        assert world.run(instance).state == "succeeded"
    assert instance_state(instance) == InstanceState.HIBERNATED and len(world.rented()) == 1
    world.forward(60)
    world.reconcile()
    box = world.box(instance)
    assert (box.state, box.gone_at) == (BoxState.DESTROYING, None), "its row does not say gone any more"
    world.reconcile(times=4)
    box.refresh_from_db()
    assert (box.state, world.rented()) == (BoxState.GONE, [])
    assert instance_state(instance) == InstanceState.HIBERNATED


# -- boxes that nobody knows -------------------------------------------------------------------------------------------------


def test_a_box_with_our_label_that_no_row_knows_is_told_of_once_an_hour_and_left_alone(world: World) -> None:
    account = account_of(person())
    create_at_the_provider(account, "dormouse-b_nobody")
    world.reconcile(account, times=3)
    told = Event.objects.filter(subject_type="account", subject_id=account.pk, code="unknown_box")
    assert told.count() == 1 and "which no row knows" in told[0].reason
    assert told[0].owner_id == account.owner_id
    world.forward(3700)
    world.reconcile(account)
    assert told.count() == 2
    assert listed(account) == ["dormouse-b_nobody"], "it may be another installation's"


def test_a_box_without_our_label_is_nobodys_business(world: World) -> None:
    account = account_of(person())
    create_at_the_provider(account, "alices-own-box")
    world.reconcile(account)
    assert not Event.objects.filter(subject_type="account").exists()


@pytest.mark.slow
def test_a_second_box_with_the_label_of_a_running_one_is_told_of_and_left_alone(world: World) -> None:
    instance = world.running()
    label = world.box(instance).label
    create_at_the_provider(instance.account, label)
    world.reconcile()
    (told,) = Event.objects.filter(subject_type="account", code="doubled_box")
    assert told.data["box"] == world.box(instance).pk
    assert len(world.rented()) == 2 and instance_state(instance) == InstanceState.RUNNING
    world.hibernate(instance)
    assert world.run(instance).state == "succeeded"
    assert world.rented() == [], "both go once the workspace is safe"


@pytest.mark.slow
def test_two_boxes_that_answer_to_one_create_are_both_given_up(world: World) -> None:
    """Nobody can tell which of them the one-use token was traded on."""
    instance, kept = world.asleep()
    world.fault(K.CREATE_UNKNOWN)
    world.wake(instance)
    world.run(instance, until="rent")
    chain = world.chain(instance)
    world.enter(chain)
    create_at_the_provider(instance.account, world.box(instance).label)
    world.forward(2)
    world.enter(chain)
    assert chain.reason_code == "rented_twice"
    assert world.run(instance).state == "succeeded"
    world.reconcile(times=6)
    assert (len(world.rented()), world.differences(instance, kept)) == (1, [])


# -- pursuing -------------------------------------------------------------------------------------------------------------------


def test_a_box_that_was_not_let_go_is_not_pursued(world: World) -> None:
    instance = world.running()
    box = world.box(instance)
    with pytest.raises(TransitionRefused, match="nobody has let it go"):
        pursuit.box_pursue(box, boxes.provider_of(box.account), now=world.now())
    assert len(world.rented()) == 1


@pytest.mark.slow
def test_one_box_that_cannot_be_pursued_does_not_hold_up_the_others(world: World) -> None:
    first, second = (world.create(owner=person(name), name=name) for name in ("ann", "ben"))
    for instance in (first, second):
        world.run(instance, until="boot")
        instance_delete(instance, discard=False, by="ops", now=world.now())
    world.fault(K.DESTROY_BUSY, label=world.box(first).label, count=1, seconds=1)
    world.reconcile()
    assert {book["label"]: book["destroying"] for book in world.rented()} in (
        {world.box(first).label: False},
        {world.box(first).label: False, world.box(second).label: True},
    )
    world.reconcile(times=4)
    assert world.rented() == []


def test_an_account_is_looked_at_by_one_worker_at_a_time(world: World) -> None:
    instance = world.running()
    account, now = instance.account, world.now()
    assert account_reconcile(account, now=now) > 0
    Lease.objects.filter(name=f"reconcile {account.pk}").update(until=now.replace(year=2100))
    assert account_reconcile(account, now=now) == 0


def test_accounts_without_a_billed_box_are_looked_at_now_and_then(world: World) -> None:
    instance = world.running()
    idle = [account_of(person(f"p{number}")) for number in range(5)]
    colab = account_of(instance.owner, kind="colab", label="free")
    seen: dict[str, int] = {}
    begin = world.now()
    for turn in range(20):
        for pk in accounts_to_reconcile(now=begin + turn * timedelta(seconds=15)):
            seen[pk] = seen.get(pk, 0) + 1
    assert seen == {instance.account.pk: 20, **{account.pk: 1 for account in idle}}
    assert colab.pk not in seen


@pytest.mark.slow
def test_a_wake_from_lost_while_the_box_is_hidden_strands_it(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    instance, kept = world.asleep()
    world.wake(instance)
    world.run(instance)
    world.forward(60)
    first = world.box(instance)
    with monkeypatch.context() as patch:
        hidden(world, instance, patch)
        world.reconcile(times=2)
        world.wake(instance)
        assert world.run(instance).state == "succeeded"
    world.forward(60)
    world.reconcile()
    first.refresh_from_db()
    assert (first.state, world.box(instance).state) == (BoxState.STRANDED, BoxState.RUNNING)
    assert (instance_state(instance), len(world.rented())) == (InstanceState.RUNNING, 2)
    assert world.differences(instance, kept) == []
    assert worker_of(instance).epoch == 3
    assert Box.objects.filter(instance=instance).count() == 3
