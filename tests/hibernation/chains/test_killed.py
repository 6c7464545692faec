"""A worker that dies at any point of any step: the chain ends as if it had not, and every effect has happened once.

Death is an exception that nothing catches, raised in place of what comes next; then the lease runs out and another
worker enters. Real processes and SIGKILL are the end-to-end tests' part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings

from core import chains
from core.chain_states import ChainState
from core.chains import Outcome, Run
from core.models import Chain, Event
from hibernation.models import Box, Instance
from hibernation.providers.local import LocalProvider
from hibernation.services import boxes, pursuit
from hibernation.services.instances import instance_delete
from hibernation.states import BoxState, InstanceState
from pool.models import Dispatch
from pool.services import dispatches
from snapshots.models import Snapshot
from snapshots.services import taking
from snapshots.states import SnapshotState
from tests.hibernation.world import World, instance_state

NIGHT = ("drain", "snapshot", "verify", "recheck", "destroy", "confirm")
MORNING = ("reserve", "rent", "boot", "restore", "resume")
WHEN = ("before", "after", "last", "settled")
"""before its effect; after the effect of its first entry; after that of the entry that goes on; after that was written."""


def points(steps: tuple[str, ...], *, quick: set[tuple[str, str]]) -> list[Any]:
    """Every step at each of its points; all but a few of them take their time."""
    every = [(step, when) for step in steps for when in WHEN]
    return [pytest.param(*point, marks=() if point in quick else pytest.mark.slow) for point in every]


class Killed(BaseException):
    """The worker is gone, at this very line."""


class Reaper:
    """Kills the worker once, at `step` and `when`; counts what the provider was really asked to create."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.killed = 0
        self.created: list[str] = []
        create = LocalProvider.create

        def counted(provider: LocalProvider, offer_id: str, spec: Any) -> str:
            self.created.append(spec.label)
            return create(provider, offer_id, spec)

        patch.setattr(LocalProvider, "create", counted)

    def at(self, step: str, when: str) -> None:
        perform, settle = chains.perform, chains.settle

        def dying_perform(run: Run) -> Outcome:
            mine = run.chain.step == step and not self.killed
            if mine and when == "before":
                self.die()
            outcome = perform(run)
            goes_on = not isinstance(outcome, chains.Again)
            if mine and (when == "after" or (when == "last" and goes_on)):
                self.die()
            return outcome

        def dying_settle(run: Run, outcome: Outcome) -> None:
            mine = run.chain.step == step and not self.killed
            settle(run, outcome)
            if mine and when == "settled" and not isinstance(outcome, chains.Again):
                self.die()

        self.patch.setattr(chains, "perform", dying_perform)
        self.patch.setattr(chains, "settle", dying_settle)

    def around(self, owner: Any, name: str, *, call: bool) -> None:
        """Die in this very call: after it was made, or before."""
        function: Callable[..., Any] = getattr(owner, name)

        def dying(*args: Any, **kwargs: Any) -> Any:
            if self.killed:
                return function(*args, **kwargs)
            if call:
                function(*args, **kwargs)
            return self.die()

        self.patch.setattr(owner, name, dying)

    def die(self) -> None:
        self.killed += 1
        raise Killed


@pytest.fixture
def reaper(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reaper]:
    yield Reaper(monkeypatch)


def survived(world: World, reaper: Reaper, instance: Instance) -> Chain:
    """Run the chain; where its worker is killed, nobody enters until the lease is over, and then the next worker does."""
    try:
        world.run(instance)
    except Killed:
        chain = world.chain(instance)
        if chain.lease_until is not None:
            assert not world.enter(chain), "the dead worker still holds it"
            world.forward(settings.CHAIN_LEASE_S + 1)
    assert reaper.killed == 1, "the kill did not happen"
    return world.run(instance)


def once(rows: Counter[str]) -> None:
    assert set(rows.values()) == {1}, rows


def events_of(instance: Instance) -> Counter[str]:
    return Counter(
        Event.objects.filter(subject_type="instance", subject_id=instance.pk).values_list("code", flat=True)
    )


def slept(world: World, reaper: Reaper, instance: Instance) -> None:
    """Put it to sleep under the reaper, and hold the night to everything it promises."""
    agent = world.agent(instance)
    kept = world.copy(instance)
    world.hibernate(instance, by="", asked=False)
    chain = survived(world, reaper, instance)
    assert chain.state == ChainState.SUCCEEDED, chain.reason
    assert instance_state(instance) == InstanceState.HIBERNATED
    assert Snapshot.objects.values_list("generation", "state").get() == (1, SnapshotState.VERIFIED)
    assert agent.done == ["snapshot"] and Dispatch.objects.filter(kind="snapshot").count() == 1
    box = world.box(instance)
    assert (box.state, box.safe_epoch, world.rented()) == (BoxState.GONE, 1, [])
    once(events_of(instance))
    once(Counter(world.events(box)))
    world.wake(instance)
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert world.differences(instance, kept) == []


def woke(world: World, reaper: Reaper, instance: Instance, kept: Any, *, boxes_made: int = 1) -> None:
    """Wake it under the reaper, and hold the morning to everything it promises."""
    before = len(reaper.created)
    world.wake(instance)
    chain = survived(world, reaper, instance)
    assert chain.state == ChainState.SUCCEEDED, chain.reason
    assert instance_state(instance) == InstanceState.RUNNING
    assert len(reaper.created) - before == 1, "one create for one wake"
    assert len(world.rented()) == 1
    assert Box.objects.filter(instance=instance, epoch__gt=1).count() == boxes_made
    assert Dispatch.objects.filter(kind="restore").count() == 1
    assert world.agent(instance).done == ["restore", "command"]
    assert world.differences(instance, kept) == []
    once(events_of(instance))
    once(Counter(world.events(world.box(instance))))


# -- each step, at each of its four points --------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "when"), points(NIGHT, quick={("destroy", "last")}))
def test_killed_at_a_step_of_the_night(world: World, reaper: Reaper, step: str, when: str) -> None:
    instance = world.running()
    reaper.at(step, when)
    slept(world, reaper, instance)


@pytest.mark.parametrize(("step", "when"), points(MORNING, quick={("rent", "last"), ("restore", "after")}))
def test_killed_at_a_step_of_the_morning(world: World, reaper: Reaper, step: str, when: str) -> None:
    instance, kept = world.asleep(on_wake="start")
    reaper.at(step, when)
    woke(world, reaper, instance, kept)


@pytest.mark.slow
@pytest.mark.parametrize("step", MORNING)
@pytest.mark.parametrize("when", ["before", "last"])
def test_killed_at_a_step_of_provisioning(world: World, reaper: Reaper, step: str, when: str) -> None:
    instance = world.create()
    reaper.at(step, when)
    assert survived(world, reaper, instance).state == ChainState.SUCCEEDED
    assert (instance_state(instance), len(world.rented()), len(reaper.created)) == ("running", 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["destroy", "confirm"])
@pytest.mark.parametrize("when", WHEN)
def test_killed_at_a_step_of_a_discard(world: World, reaper: Reaper, step: str, when: str) -> None:
    instance = world.running()
    reaper.at(step, when)
    instance_delete(instance, discard=True, by="alice", now=world.now())
    assert survived(world, reaper, instance).state == ChainState.SUCCEEDED
    assert (instance_state(instance), world.rented()) == (InstanceState.DELETED, [])
    once(events_of(instance))


# -- in the middle of an effect ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (LocalProvider, "destroy", False),
        pytest.param(LocalProvider, "destroy", True, marks=pytest.mark.slow),
        pytest.param(boxes, "box_let_go", True, marks=pytest.mark.slow),
        pytest.param(boxes, "worker_stands_down", True, marks=pytest.mark.slow),
        pytest.param(pursuit, "box_gone", False, marks=pytest.mark.slow),
        pytest.param(pursuit, "box_gone", True, marks=pytest.mark.slow),
        pytest.param(taking, "snapshot_begin", True, marks=pytest.mark.slow),
        pytest.param(dispatches, "dispatch_create", True, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_killed_in_the_middle_of_an_effect_of_the_night(
    world: World, reaper: Reaper, owner: Any, name: str, call: bool
) -> None:
    """Above all between the transaction that lets the box go and the call that destroys it."""
    instance = world.running()
    reaper.around(owner, name, call=call)
    slept(world, reaper, instance)


def test_killed_after_the_create_and_before_its_answer_was_noted(world: World, reaper: Reaper) -> None:
    """Only the label tells that the box exists."""
    instance, kept = world.asleep(on_wake="start")
    reaper.around(LocalProvider, "create", call=True)
    woke(world, reaper, instance, kept)
    assert "box_rented" in world.events(world.box(instance))
    assert Event.objects.get(subject_id=world.box(instance).pk, code="box_rented").reason_code == "adopted"


@pytest.mark.slow
def test_killed_between_the_note_and_the_create(world: World, reaper: Reaper) -> None:
    """It may have been created, for all anybody knows: it is looked for, and only then another one is rented."""
    instance, kept = world.asleep(on_wake="start")
    reaper.around(LocalProvider, "create", call=False)
    woke(world, reaper, instance, kept, boxes_made=2)
    first = Box.objects.get(instance=instance, epoch=2)
    assert (first.state, first.reason_code) == (BoxState.REFUSED, "box_never_was")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["box_plan", "box_asked_for", "box_rented", "box_up", "box_hand_over"])
def test_killed_while_a_box_is_written_down(world: World, reaper: Reaper, name: str) -> None:
    instance, kept = world.asleep(on_wake="start")
    reaper.around(boxes, name, call=True)
    woke(world, reaper, instance, kept)


# -- again and again ----------------------------------------------------------------------------------------------------------


def test_a_step_that_kills_every_worker_ends_and_leaves_the_box_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = world.running()
    world.hibernate(instance)
    world.run(instance, until="verify")
    perform = chains.perform

    def dies(run: Run) -> Outcome:
        limit = chains.definition_of("hibernate").step("verify").attempts or 0
        if run.chain.attempts >= limit:
            return perform(run)
        raise Killed

    monkeypatch.setattr(chains, "perform", dies)
    chain = world.chain(instance)
    for _ in range(12):
        try:
            world.enter(chain)
        except Killed:
            world.forward(settings.CHAIN_LEASE_S + 1)
        chain.refresh_from_db()
        if chain.state != ChainState.ACTIVE:
            break
    assert (chain.state, chain.reason) == (ChainState.ABORTED, "verify failed 8 times: its worker died")
    assert (instance_state(instance), world.box(instance).state) == (InstanceState.RUNNING, BoxState.RUNNING)


@pytest.mark.slow
def test_killed_at_every_step_in_one_night_and_morning(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies after the effect of every single entry: nothing is ever written by whoever did it."""
    instance = world.running(on_wake="start")
    kept = world.copy(instance)
    settle = chains.settle
    died: set[int] = set()

    def dying(run: Run, outcome: Outcome) -> None:
        if run.fence not in died and run.chain.attempts % 2 == 0 and run.fence % 2 == 1:
            died.add(run.fence)
            raise Killed
        settle(run, outcome)

    monkeypatch.setattr(chains, "settle", dying)
    for begin, wanted in ((world.hibernate, InstanceState.HIBERNATED), (world.wake, InstanceState.RUNNING)):
        begin(instance)
        died.clear()
        for _ in range(60):
            try:
                chain = world.run(instance)
                break
            except Killed:
                world.forward(settings.CHAIN_LEASE_S + 1)
        assert (chain.state, instance_state(instance)) == (ChainState.SUCCEEDED, wanted), chain.reason
        assert died
    assert (world.differences(instance, kept), len(world.rented())) == ([], 1)
