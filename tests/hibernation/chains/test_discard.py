"""Given up in so many words: the one way in which a box goes unsaved."""

from __future__ import annotations

import pytest

from core.chain_states import ChainState
from core.errors import DomainError
from hibernation.providers.local_faults import FaultKind as K
from hibernation.services.instances import instance_delete, instance_keep_awake
from hibernation.states import BoxState, InstanceState
from tests.hibernation.world import World, hidden, instance_state, worker_of


def test_a_discarded_box_is_seen_to_go_and_says_who_wanted_it(world: World) -> None:
    instance = world.running()
    chain = instance_delete(instance, discard=True, by="alice", now=world.now())
    assert chain is not None and worker_of(instance).slots == 0
    assert world.run(instance).state == ChainState.SUCCEEDED
    box = world.box(instance)
    assert (box.state, box.discarded_by, box.safe_snapshot_id) == (BoxState.GONE, "alice", None)
    assert (instance_state(instance), world.rented()) == (InstanceState.DELETED, [])
    assert world.events(instance)[-1] == "discarded"


def test_without_the_word_nothing_is_discarded(world: World) -> None:
    instance = world.running()
    with pytest.raises(DomainError, match="its workspace is not saved") as refused:
        instance_delete(instance, discard=False, by="alice", now=world.now())
    assert refused.value.code == "workspace_not_saved"
    assert (instance_state(instance), len(world.rented())) == (InstanceState.RUNNING, 1)


@pytest.mark.slow
def test_a_discard_that_the_provider_ignores_is_asked_for_again(world: World) -> None:
    instance = world.running()
    world.fault(K.DESTROY_IGNORED, count=3)
    instance_delete(instance, discard=True, by="alice", now=world.now())
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert world.rented() == []


@pytest.mark.slow
def test_a_box_that_vanishes_before_its_discard_is_discarded_all_the_same(world: World) -> None:
    instance = world.running()
    world.forward(60)
    world.fault(K.BOX_DIES)
    instance_delete(instance, discard=True, by="alice", now=world.now())
    world.until_gone(instance)
    world.reconcile(times=3)
    assert world.box(instance).state == BoxState.GONE
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert instance_state(instance) == InstanceState.DELETED


@pytest.mark.parametrize("late", [False, True])
def test_a_box_that_vanishes_before_its_discard_and_comes_back_is_still_discarded(
    world: World, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """late: it is back, and stranded, before the discard looks at it."""
    instance = world.running()
    world.forward(60)
    instance_delete(instance, discard=True, by="alice", now=world.now())
    with monkeypatch.context() as patch:
        hidden(world, instance, patch)
        world.reconcile(times=2)
        assert world.box(instance).state == BoxState.GONE
        if not late:
            assert world.run(instance).state == ChainState.SUCCEEDED
    world.forward(60)
    world.reconcile(times=4)
    assert world.run(instance).state == ChainState.SUCCEEDED
    world.reconcile(times=4)
    assert (world.box(instance).state, world.rented()) == (BoxState.GONE, [])
    assert instance_state(instance) == InstanceState.DELETED


def test_a_hold_on_one_that_is_being_discarded_is_refused(world: World) -> None:
    instance = world.running()
    instance_delete(instance, discard=True, by="alice", now=world.now())
    with pytest.raises(DomainError, match="alice has discarded its workspace"):
        instance_keep_awake(instance, minutes=5, by="bob", now=world.now())
    instance.refresh_from_db()
    assert instance.keep_awake_until is None


@pytest.mark.slow
def test_one_that_falls_asleep_is_discarded_as_long_as_its_box_is_there(world: World) -> None:
    instance = world.running()
    world.hibernate(instance)
    world.run(instance, until="recheck")
    with pytest.raises(DomainError):
        instance_delete(instance, discard=False, by="alice", now=world.now())
    chain = instance_delete(instance, discard=True, by="alice", now=world.now())
    assert chain is not None and chain.kind == "discard"
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert instance_state(instance) == InstanceState.DELETED


def test_one_that_is_being_provisioned_is_given_up_and_its_box_goes(world: World) -> None:
    instance = world.create()
    world.run(instance, until="boot")
    assert len(world.rented()) == 1
    assert instance_delete(instance, discard=False, by="alice", now=world.now()) is None
    assert instance_state(instance) == InstanceState.DELETED
    world.reconcile(times=4)
    assert (world.box(instance).state, world.rented()) == (BoxState.GONE, [])
