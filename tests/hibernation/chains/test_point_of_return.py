"""A step that runs while its chain is stopped or overtaken: nothing outside happens that could not be taken back."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from core import chains
from core.chain_states import ChainState
from core.chains import FenceLost, Run
from core.reasons import because
from hibernation.chains import hibernate as night
from hibernation.chains.renting import next_offer, rent
from hibernation.models import Box, Instance
from hibernation.providers.local import LocalProvider
from hibernation.services import boxes
from hibernation.services.hibernate import FallingAsleep, hibernation_stop
from hibernation.services.wake import wake_stop
from hibernation.states import BoxState, InstanceState
from tests.hibernation.world import World, instance_state


class Calls:
    """What the provider is asked, counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.destroyed: list[str] = []
        self.created: list[str] = []
        destroy, create = LocalProvider.destroy, LocalProvider.create

        def counted_destroy(provider: LocalProvider, ref: str) -> None:
            self.destroyed.append(ref)
            destroy(provider, ref)

        def counted_create(provider: LocalProvider, offer_id: str, spec: Any) -> str:
            self.created.append(spec.label)
            return create(provider, offer_id, spec)

        monkeypatch.setattr(LocalProvider, "destroy", counted_destroy)
        monkeypatch.setattr(LocalProvider, "create", counted_create)


@pytest.fixture
def calls(world: World, monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def claimed(world: World, instance: Instance) -> Run:
    run = chains.claim(world.chain(instance).pk, now=world.now())
    assert run is not None
    return run


def overtaken(world: World, run: Run) -> Run:
    """A second worker enters the same step when the first one's lease is over."""
    world.forward(120)
    other = chains.claim(run.chain.pk, now=world.now())
    assert other is not None and other.fence == run.fence + 1
    return other


# -- hibernating -----------------------------------------------------------------------------------------------------------


def test_a_destroy_that_is_running_when_its_chain_is_stopped_destroys_nothing(
    world: World, calls: Calls
) -> None:
    instance = world.running()
    world.hibernate(instance)
    world.run(instance, until="destroy")
    run = claimed(world, instance)
    hibernation_stop(instance, by="ops", now=world.now())
    with pytest.raises(FenceLost):
        night.destroy(run)
    assert calls.destroyed == []
    assert world.box(instance).state == BoxState.RUNNING
    assert instance_state(instance) == InstanceState.RUNNING


def test_whoever_looked_before_the_destroy_and_stops_after_it_is_refused(world: World, calls: Calls) -> None:
    """The race that must not be lost: the step is read as recheck, the stop is written after the box was let go."""
    instance = world.running()
    world.hibernate(instance)
    world.run(instance, until="recheck")
    seen = world.chain(instance)
    world.run(instance, until="destroy")
    run = claimed(world, instance)
    night.destroy(run)
    assert len(calls.destroyed) == 1
    with pytest.raises(FallingAsleep):
        chains.chain_stop(seen, ChainState.ABORTED, reason=because("chain_done"), now=world.now())
    chains.settle(run, chains.Next())
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert instance_state(instance) == InstanceState.HIBERNATED


def test_a_worker_that_stood_still_between_its_claim_and_its_look_judges_by_the_clock_of_its_look(
    world: World, calls: Calls
) -> None:
    """A machine that is suspended overtakes nobody: the readings are hours old by the time that it goes on."""
    instance = world.running()
    world.hibernate(instance, by="", asked=False)
    world.run(instance, until="destroy")
    run = claimed(world, instance)
    world.forward(3600)
    outcome = night.destroy(run)
    assert isinstance(outcome, chains.Goto) and outcome.step == "recheck"
    assert (calls.destroyed, world.box(instance).state) == ([], BoxState.RUNNING)


@pytest.mark.slow
def test_a_worker_that_was_overtaken_in_the_destroy_lets_nothing_go(world: World, calls: Calls) -> None:
    instance = world.running()
    world.hibernate(instance)
    world.run(instance, until="destroy")
    slow = claimed(world, instance)
    fast = overtaken(world, slow)
    chains.settle(fast, chains.perform(fast))
    asked = list(calls.destroyed)
    box = world.box(instance)
    assert box.state == BoxState.DESTROYING
    with pytest.raises(FenceLost):
        night.destroy(slow)
    assert calls.destroyed == asked


@pytest.mark.slow
def test_an_overtaken_snapshot_asks_the_agent_for_nothing(world: World) -> None:
    instance = world.running()
    world.hibernate(instance)
    world.run(instance, until="snapshot")
    run = claimed(world, instance)
    hibernation_stop(instance, by="ops", now=world.now())
    with pytest.raises(FenceLost):
        night.snapshot(run)
    assert not world.agent(instance).work(), "nobody has asked for anything"


# -- waking ------------------------------------------------------------------------------------------------------------------


def at(step: str) -> Callable[[World, Instance], Run]:
    def prepare(world: World, instance: Instance) -> Run:
        world.wake(instance)
        world.run(instance, until=step)
        return claimed(world, instance)

    return prepare


def test_a_rent_that_is_overtaken_before_the_call_creates_nothing(
    world: World, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was about to ask when its lease ran out; the other one has asked meanwhile."""
    instance, _ = world.asleep()
    slow = at("rent")(world, instance)
    seen: list[Box] = []

    def meanwhile(box: Box, *, now: Any) -> Any:
        """Between the plan and the call."""
        if not seen:
            seen.append(box)
            fast = overtaken(world, slow)
            chains.settle(fast, chains.perform(fast))
        return real_spec(box, now=now)

    real_spec = boxes.box_spec
    monkeypatch.setattr(boxes, "box_spec", meanwhile)
    before = len(calls.created)
    with pytest.raises(FenceLost):
        rent(slow)
    assert len(calls.created) == before + 1, "one box for one wake"
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert len(world.rented()) == 1


def test_a_create_that_goes_out_after_everybody_gave_it_up_is_destroyed_and_told(
    world: World, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker slept for so long between its note and its call that the wake was stopped meanwhile."""
    instance, _ = world.asleep()
    slow = at("rent")(world, instance)
    create = LocalProvider.create

    def late(provider: LocalProvider, offer_id: str, spec: Any) -> str:
        wake_stop(instance, by="ops", now=world.now())
        world.forward(120)
        world.reconcile(times=3)
        assert Box.objects.latest("epoch").state == BoxState.GONE, "looked for, twice, and not found"
        world.forward(120)
        return create(provider, offer_id, spec)

    monkeypatch.setattr(LocalProvider, "create", late)
    with pytest.raises(FenceLost):
        rent(slow)
    monkeypatch.setattr(LocalProvider, "create", create)
    assert len(world.rented()) == 1
    world.reconcile()
    box = Box.objects.latest("epoch")
    assert (box.state, box.reason_code) == (BoxState.DESTROYING, "stray_box")
    world.reconcile(times=3)
    box.refresh_from_db()
    assert (box.state, world.rented()) == (BoxState.GONE, [])
    assert instance_state(instance) == InstanceState.HIBERNATED


@pytest.mark.slow
def test_a_wake_that_is_stopped_gives_its_box_up_and_sleeps_on(world: World) -> None:
    instance, _ = world.asleep()
    generation = instance.snapshot_id
    world.wake(instance)
    world.run(instance, until="restore")
    wake_stop(instance, by="alice", now=world.now())
    instance.refresh_from_db()
    assert (instance.state, instance.snapshot_id, instance.restore_incomplete) == (
        InstanceState.HIBERNATED, generation, False,
    )  # fmt: skip
    assert world.box(instance).state == BoxState.DESTROYING
    world.reconcile(times=3)
    assert (world.box(instance).state, world.rented()) == (BoxState.GONE, [])
    world.wake(instance)
    assert world.run(instance).state == ChainState.SUCCEEDED


@pytest.mark.slow
def test_a_boot_that_was_overtaken_gives_no_box_up(world: World) -> None:
    instance, _ = world.asleep()
    world.enrolling = False
    slow = at("boot")(world, instance)
    world.enrolling = True
    world.settled()
    world.agents_turn()
    fast = overtaken(world, slow)
    chains.settle(fast, chains.perform(fast))
    with pytest.raises(FenceLost):
        next_offer(slow, world.box(instance), because("box_not_up", minutes=10), ban=True)
    assert world.box(instance).state == BoxState.RUNNING


@pytest.mark.parametrize(
    "end", ["stopped", *(pytest.param(end, marks=pytest.mark.slow) for end in ("overdue", "failing"))]
)
def test_after_the_hand_over_the_instance_is_awake_whatever_becomes_of_the_chain(
    world: World, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box that was handed over may hold new work: a wake that ends badly must not take it away."""
    instance, kept = world.asleep(on_wake="start-everything")
    world.wake(instance)
    world.run(instance, until="resume")
    chain = world.chain(instance)
    world.enter(chain)
    box = world.box(instance)
    assert box.handed_over_at is not None and chain.step == "resume"
    if end == "stopped":
        wake_stop(instance, by="ops", now=world.now())
    elif end == "overdue":
        world.forward(3600)
        world.enter(chain)
    else:
        monkeypatch.setattr(boxes, "box_live", _failing_in_resume(boxes.box_live))
        for _ in range(9):
            world.forward(400)
            world.enter(chain)
            if chain.state != ChainState.ACTIVE:
                break
    instance.refresh_from_db()
    box.refresh_from_db()
    assert (instance.state, box.state) == (InstanceState.RUNNING, BoxState.RUNNING)
    assert world.differences(instance, kept) == []
    assert instance.worker is not None and instance.worker.slots == 1


def _failing_in_resume(function: Callable[..., Any]) -> Callable[..., Any]:
    """Raises in the step, so that it fails to its cap; answers whoever asks afterwards."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if inspect.stack()[1].function == "resume":
            raise RuntimeError("something is wrong with this step")
        return function(*args, **kwargs)

    return wrapped
