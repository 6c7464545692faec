"""The whole night and the whole morning: every byte back, one box at a time, and a reason at every step."""

from __future__ import annotations

import pytest

from core.chain_states import ChainState
from core.models import ChainStep
from core.reasons import because
from hibernation.models import Box
from hibernation.states import BoxState, InstanceState
from pool.services.workers import worker_revoke
from pool.states import WorkerState
from snapshots.states import SnapshotState
from tests.hibernation.world import World, instance_state, last_generation, listed, worker_of


def test_a_night_and_a_morning_bring_every_byte_back(world: World) -> None:
    instance = world.provisioned()
    first = world.box(instance)
    kept = world.copy(instance)
    world.hibernate(instance)
    night = world.run(instance)
    assert night.state == ChainState.SUCCEEDED, night.reason
    assert instance_state(instance) == InstanceState.HIBERNATED
    generation = last_generation(instance)
    assert (generation.state, generation.generation) == (SnapshotState.VERIFIED, 1)
    assert world.rented() == [] and listed(instance.account) == []
    first.refresh_from_db()
    assert (first.state, first.safe_snapshot_id, first.safe_epoch) == (BoxState.GONE, generation.pk, 1)
    world.wake(instance)
    morning = world.run(instance)
    assert morning.state == ChainState.SUCCEEDED, morning.reason
    instance.refresh_from_db()
    assert (instance.state, instance.epoch, instance.restore_incomplete) == (InstanceState.RUNNING, 2, False)
    assert world.differences(instance, kept) == []
    assert len(world.rented()) == 1
    assert worker_of(instance).slots == 1


@pytest.mark.slow
def test_the_steps_are_told_in_their_order(world: World) -> None:
    instance = world.provisioned()
    world.hibernate(instance)
    world.run(instance)
    world.wake(instance)
    world.run(instance)
    steps = ChainStep.objects.filter(chain__subject_id=instance.pk).order_by("id")
    told = {
        kind: [step.step for step in steps if step.chain.kind == kind]
        for kind in ("provision", "hibernate", "wake")
    }
    assert told == {
        "provision": ["reserve", "rent", "boot", "restore", "resume"],
        "hibernate": ["drain", "snapshot", "verify", "recheck", "destroy", "confirm"],
        "wake": ["reserve", "rent", "boot", "restore", "resume"],
    }
    assert world.events(instance) == ["created", "started", "hibernating", "hibernated", "waking", "woke_up"]


def test_an_instance_whose_worker_was_revoked_wakes_as_a_new_one(world: World) -> None:
    instance, kept = world.asleep()
    revoked = worker_of(instance)
    worker_revoke(revoked, reason=because("operator", note="its secret was seen elsewhere"), now=world.now())
    world.wake(instance)
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert world.differences(instance, kept) == []
    instance.refresh_from_db()
    revoked.refresh_from_db()
    assert instance.worker_id != revoked.pk
    assert (instance.worker.state, instance.worker.slots) == (WorkerState.ONLINE, 1)
    assert (revoked.state, revoked.slots) == (WorkerState.REVOKED, 0)


@pytest.mark.slow
def test_three_nights_build_on_each_other(world: World) -> None:
    instance = world.running()
    for night in (1, 2, 3):
        (world.agent(instance).workspace / f"night-{night}").write_text("new work\n")
        kept = world.copy(instance)
        world.hibernate(instance)
        assert world.run(instance).state == ChainState.SUCCEEDED
        generation = last_generation(instance)
        assert (generation.generation, generation.epoch) == (night, night)
        assert (generation.parent.generation if generation.parent else 0) == night - 1
        world.wake(instance)
        assert world.run(instance).state == ChainState.SUCCEEDED
        assert world.differences(instance, kept) == []
    assert [box.state for box in Box.objects.order_by("epoch")] == ["gone", "gone", "gone", "running"]
