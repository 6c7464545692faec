"""A restore fails closed: awake is only what was wholly restored, on the first box or on another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import settings

from agent import wire
from core import chains
from core.chain_states import ChainState
from core.errors import StandDown
from core.reasons import because
from hibernation.chains.renting import next_offer
from hibernation.models import Box, Instance, MachineBan
from hibernation.providers.local_faults import FaultKind as K
from hibernation.states import BoxState, InstanceState
from pool.models import Dispatch
from snapshots.models import RestoreGrant
from snapshots.states import SnapshotState
from tests.hibernation.boxed_agent import Agent
from tests.hibernation.world import World, instance_state, last_generation, worker_of


def waking(world: World) -> tuple[Instance, Path]:
    """An instance whose box has come up and is about to restore."""
    instance, kept = world.asleep()
    world.wake(instance)
    world.run(instance, until="restore")
    return instance, kept


def lies(agent: Agent, claim: wire.Claimed) -> wire.FinishPost:
    """Reports success, and another content id than that of what it should have restored."""
    generation = last_generation(Instance.objects.get())
    result = {"content_id": "f" * 64, "files": generation.files, "logical_bytes": generation.logical_bytes}
    return wire.FinishPost(fence=claim.fence, outcome="succeeded", result=result)


def loses_a_file(agent: Agent, claim: wire.Claimed) -> wire.FinishPost:
    generation = last_generation(Instance.objects.get())
    result = {
        "content_id": generation.content_id,
        "files": generation.files - 1,
        "logical_bytes": generation.logical_bytes,
    }
    return wire.FinishPost(fence=claim.fence, outcome="succeeded", result=result)


@pytest.mark.parametrize("wrong", [lies, pytest.param(loses_a_file, marks=pytest.mark.slow)])
def test_a_restore_that_reports_something_else_is_done_again_on_another_box(
    world: World, wrong: Callable[[Agent, wire.Claimed], wire.FinishPost]
) -> None:
    instance, kept = waking(world)
    first = world.box(instance)
    world.agent(instance).instead["restore"] = wrong
    world.run(instance, until=lambda chain: Box.objects.filter(epoch=3).exists())
    instance.refresh_from_db()
    assert (instance.state, instance.restore_incomplete) == (InstanceState.WAKING, True)
    assert Dispatch.objects.filter(kind="restore", epoch=2).count() == 2, "once more, then the next box"
    assert world.run(instance).state == ChainState.SUCCEEDED
    first.refresh_from_db()
    assert (first.reason_code, first.handed_over_at) in (
        ("box_restore_failed", None),
        ("box_seen_gone", None),
    )
    assert world.differences(instance, kept) == []
    assert world.box(instance).machine_id != first.machine_id


@pytest.mark.slow
def test_a_restore_that_fails_once_is_done_again_on_the_same_box(world: World) -> None:
    instance, kept = waking(world)

    def once(agent: Agent, claim: wire.Claimed) -> wire.FinishPost:
        del agent.instead["restore"]
        return wire.FinishPost(fence=claim.fence, outcome="failed", reason="the disk was full")

    world.agent(instance).instead["restore"] = once
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert (Box.objects.count(), world.differences(instance, kept)) == (2, [])


@pytest.mark.slow
def test_a_generation_that_cannot_be_restored_leaves_the_instance_asleep_and_no_box(world: World) -> None:
    instance, _ = waking(world)
    for pack in Path(settings.SNAPSHOT_STORE).glob("o/*/p/*"):
        pack.unlink()
    chain = world.run(instance)
    instance.refresh_from_db()
    assert (chain.state, chain.reason_code) == (ChainState.FAILED, "generation_damaged")
    assert (instance.state, instance.restore_incomplete) == (InstanceState.HIBERNATED, False)
    assert Box.objects.count() == 2, "no second box is paid for what the store does not have"
    assert last_generation(instance).state == SnapshotState.DAMAGED
    world.reconcile(times=4)
    assert world.rented() == []


@pytest.mark.slow
def test_a_box_that_dies_while_it_restores_is_replaced(world: World) -> None:
    instance, kept = waking(world)
    world.enter(world.chain(instance))
    world.forward(60)
    world.fault(K.BOX_DIES)
    world.until_gone(instance)
    world.forward(5)
    world.run(instance, until=lambda chain: Box.objects.filter(epoch=3).exists(), agents=False)
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert (world.differences(instance, kept), worker_of(instance).epoch) == ([], 3)


@pytest.mark.slow
def test_an_agent_that_goes_silent_in_the_middle_costs_ten_minutes_and_its_machine_a_ban(
    world: World,
) -> None:
    instance, kept = waking(world)
    world.enter(world.chain(instance))
    silent = world.agent(instance)
    silent.works = False
    world.silence(instance)
    began = world.now()
    world.run(instance, until=lambda chain: Box.objects.filter(epoch=3).exists(), agents=False, stride_s=60)
    assert (world.now() - began).total_seconds() < 20 * 60
    assert MachineBan.objects.count() == 1
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert world.differences(instance, kept) == []


def test_the_agent_of_a_box_that_was_given_up_is_told_to_stand_down(world: World) -> None:
    """And what it still reports changes nothing."""
    instance, kept = waking(world)
    world.enter(world.chain(instance))
    slow = world.agent(instance)
    claim = slow.claim()
    assert claim is not None
    slow.works = False
    world.forward(60)
    world.forward(10)
    run = chains.claim(world.chain(instance).pk, now=world.now())
    assert run is not None
    chains.settle(run, next_offer(run, world.box(instance), because("box_not_up", minutes=10)))
    with pytest.raises(StandDown):
        slow.finish(claim, slow.restore(claim))
    with pytest.raises(StandDown):
        slow.post()
    assert Dispatch.objects.get(pk=claim.dispatch_id).state == "withdrawn"
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert world.differences(instance, kept) == []


@pytest.mark.slow
def test_nobody_may_read_the_generation_once_it_is_restored(world: World) -> None:
    instance, _ = waking(world)
    world.enter(world.chain(instance))
    grant = RestoreGrant.objects.get()
    assert (grant.worker_ref, grant.worker_epoch) == (instance.worker_id, 2)
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert not RestoreGrant.objects.exists()


@pytest.mark.slow
def test_a_damaged_generation_rents_nothing_unless_the_store_has_it_whole_again(world: World) -> None:
    instance, kept = world.asleep()
    generation = last_generation(instance)
    type(generation).objects.update(state=SnapshotState.DAMAGED)
    pack = next(Path(settings.SNAPSHOT_STORE).glob("o/*/p/*"))
    data = pack.read_bytes()
    pack.unlink()
    world.wake(instance)
    chain = world.run(instance)
    assert (chain.state, chain.step, chain.reason_code) == (
        ChainState.FAILED, "reserve", "generation_damaged",
    )  # fmt: skip
    assert instance_state(instance) == InstanceState.HIBERNATED
    assert Box.objects.count() == 1, "nothing was rented"
    pack.write_bytes(data)
    world.wake(instance)
    assert world.run(instance).state == ChainState.SUCCEEDED
    generation.refresh_from_db()
    assert (generation.state, world.differences(instance, kept)) == (SnapshotState.VERIFIED, [])


# -- what starts on wake --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_starts_on_wake_runs_once_after_every_byte_is_there(world: World) -> None:
    instance, _ = world.asleep(on_wake="jupyter lab")
    world.wake(instance)
    seen: list[tuple[str, bool]] = []

    def starts(agent: Agent, claim: wire.Claimed) -> wire.FinishPost:
        seen.append((str(claim.work["script"]), (agent.workspace / "notes" / "today.txt").exists()))
        return agent.succeed(claim)

    world.run(instance, until="resume")
    world.agent(instance).instead["command"] = starts
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert seen == [("jupyter lab", True)]


def test_what_starts_on_wake_is_asked_for_again_where_it_was_broken_off(world: World) -> None:
    instance, _ = world.asleep(on_wake="jupyter lab")
    world.wake(instance)
    world.run(instance, until="resume")
    ends = iter(["interrupted", "succeeded"])
    world.agent(instance).instead["command"] = lambda agent, claim: wire.FinishPost(
        fence=claim.fence, outcome=next(ends), reason="the machine was restarted"
    )
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert next(ends, "used up") == "used up"
    assert world.events(instance)[-1:] == ["woke_up"]


def test_what_cannot_start_on_wake_is_told_and_the_instance_is_awake(world: World) -> None:
    instance, _ = world.asleep(on_wake="false")
    world.wake(instance)
    world.run(instance, until="resume")
    world.agent(instance).instead["command"] = lambda agent, claim: wire.FinishPost(
        fence=claim.fence, outcome="failed", exit_code=1, reason="exit code 1"
    )
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert world.events(instance)[-2:] == ["on_wake_failed", "woke_up"]
    assert (instance_state(instance), world.box(instance).state) == (InstanceState.RUNNING, BoxState.RUNNING)
