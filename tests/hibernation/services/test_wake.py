"""Waking: once, however many ask; joined, limited, and never refused for falling asleep."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from core.chain_states import ChainState
from core.errors import DomainError, TooSoon, TransitionRefused
from core.models import Chain, Event
from core.reasons import because
from hibernation.models import Box, Instance
from hibernation.services.hibernate import FallingAsleep
from hibernation.services.wake import ASKED_EVERY_S, instance_wake
from hibernation.states import BoxState, InstanceState
from snapshots.models import Snapshot
from snapshots.services.deleting import snapshot_delete
from snapshots.states import SnapshotState
from tests.hibernation.rows import T0, asleep_of, at, instance_of, person, snapshot_of
from tests.hibernation.world import World, instance_state

THREADS = 16


def wake(
    instance: Instance, *, limited: bool = False, seconds: float = 0, now: datetime | None = None
) -> Chain:
    reason = because("wake_asked", by="alice")
    return instance_wake(instance, reason=reason, by="alice", now=now or at(seconds), limited=limited)


@pytest.fixture
def asleep(transactional_db: None, valkey: object) -> Instance:
    return asleep_of(person())


def at_once(
    instance: Instance, *, calls: int, limited: bool = False, now: datetime | None = None
) -> Counter[str]:
    """So many requests from several threads, each with a copy of its own that is as old as the others'."""
    copies = [Instance.objects.get(pk=instance.pk) for _ in range(calls)]
    start = threading.Barrier(THREADS)

    def ask(number: int) -> Counter[str]:
        answers: Counter[str] = Counter()
        start.wait()
        try:
            for copy in copies[number::THREADS]:
                try:
                    answers[wake(copy, limited=limited, now=now).pk] += 1
                except TooSoon:
                    answers["too soon"] += 1
        finally:
            connection.close()
        return answers

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(ask, range(THREADS)), Counter())


def test_a_thousand_at_once_start_one_chain_and_all_join_it(asleep: Instance) -> None:
    answers = at_once(asleep, calls=1000)
    chain = Chain.objects.get()
    assert answers == {chain.pk: 1000}
    assert instance_state(asleep) == InstanceState.WAKING
    assert Event.objects.filter(code="waking").count() == 1


@pytest.mark.slow
def test_of_a_thousand_limited_requests_at_once_one_is_accepted(asleep: Instance) -> None:
    answers = at_once(asleep, calls=1000, limited=True)
    assert answers == {Chain.objects.get().pk: 1, "too soon": 999}


def test_a_thousand_at_once_rent_one_box(world: World) -> None:
    instance, kept = world.asleep()
    answers = at_once(instance, calls=200, now=world.now())
    assert len(answers) == 1
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert Box.objects.filter(epoch__gt=1).count() == 1 and len(world.rented()) == 1
    assert world.differences(instance, kept) == []


def test_one_request_a_minute_and_it_says_when(asleep: Instance) -> None:
    chain = wake(asleep, limited=True)
    with pytest.raises(TooSoon) as refused:
        wake(asleep, limited=True, seconds=20)
    assert refused.value.retry_after_s == pytest.approx(40)
    assert wake(asleep, limited=True, seconds=ASKED_EVERY_S).pk == chain.pk, "joined"
    assert wake(asleep, seconds=61).pk == chain.pk, "whoever is not limited joins at any time"
    assert Chain.objects.count() == 1


def test_one_that_is_refused_for_its_haste_writes_nothing(asleep: Instance) -> None:
    """On SQLite there is one writer at a time: a crowd at the door must not keep the chain from its work."""
    wake(asleep, limited=True)
    with CaptureQueriesContext(connection) as queries, pytest.raises(TooSoon):
        wake(asleep, limited=True, seconds=1)
    assert not [query for query in queries if not query["sql"].startswith("SELECT")]


def test_a_request_that_can_begin_nothing_does_not_use_the_minute_up(asleep: Instance) -> None:
    Snapshot.objects.update(state=SnapshotState.DELETED)
    Instance.objects.update(state=InstanceState.LOST)
    for second in (0, 1):
        with pytest.raises(DomainError) as refused:
            wake(asleep, limited=True, seconds=second)
        assert refused.value.code in ("no_generation", "too_soon")
    awake = instance_of(person("bob"))
    for second in (0, 1):
        with pytest.raises(TransitionRefused, match="it is running"):
            wake(awake, limited=True, seconds=second)


def test_a_clock_that_jumped_back_never_asks_for_more_than_a_minutes_patience(asleep: Instance) -> None:
    wake(asleep, limited=True, seconds=5000)
    with pytest.raises(TooSoon) as refused:
        wake(asleep, limited=True, seconds=0)
    assert refused.value.retry_after_s <= ASKED_EVERY_S


def test_where_its_generation_was_let_go_it_wakes_from_the_newest_that_is_left(asleep: Instance) -> None:
    newest = snapshot_of(asleep, generation=2)
    Instance.objects.update(state=InstanceState.DELETED)
    snapshot_delete(newest, by="alice", now=T0)
    chain = wake(asleep)
    asleep.refresh_from_db()
    left = Snapshot.objects.get(generation=1)
    assert (chain.data["snapshot"], asleep.snapshot_id) == (left.pk, left.pk)
    with pytest.raises(DomainError, match="studio is waking on it"):
        snapshot_delete(left, by="alice", now=T0)


@pytest.mark.parametrize("state", [InstanceState.HIBERNATED, InstanceState.LOST])
def test_a_damaged_generation_can_be_let_go_for_an_older_one_that_is_whole(
    asleep: Instance, state: str
) -> None:
    """It is the owner who gives up what was new in it, and only where something is left to wake from."""
    newest = snapshot_of(asleep, generation=2)
    Instance.objects.update(state=state)
    with pytest.raises(DomainError, match="on it"):
        snapshot_delete(newest, by="alice", now=T0)
    Snapshot.objects.filter(pk=newest.pk).update(state=SnapshotState.DAMAGED)
    older = Snapshot.objects.filter(generation=1)
    older.update(state=SnapshotState.DAMAGED)
    with pytest.raises(DomainError, match="on it"):
        snapshot_delete(newest, by="alice", now=T0)
    older.update(state=SnapshotState.VERIFIED)
    snapshot_delete(newest, by="alice", now=T0)
    with pytest.raises(DomainError, match="on it"):
        snapshot_delete(older.get(), by="alice", now=T0)
    assert wake(asleep).data["snapshot"] == older.get().pk


def test_after_its_window_it_sleeps_on_the_generation_that_is_left(
    asleep: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hibernation.services import lifecycle

    monkeypatch.setattr(lifecycle, "snapshot_recheck", lambda snapshot, now: snapshot.generation == 1)
    newest = snapshot_of(asleep, generation=2)
    Snapshot.objects.filter(pk=newest.pk).update(state=SnapshotState.DAMAGED)
    snapshot_delete(newest, by="alice", now=T0)
    Instance.objects.update(delete_due_at=T0)
    asleep.refresh_from_db()
    assert lifecycle.instance_pause_end(asleep, now=at(1))
    asleep.refresh_from_db()
    assert (asleep.state, asleep.snapshot.generation) == (InstanceState.DELETED, 1)


# -- while it falls asleep -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        *(pytest.param(step, marks=pytest.mark.slow) for step in ("drain", "snapshot", "verify", "recheck")),
        "destroy",
    ],
)
def test_one_that_falls_asleep_stays_awake_where_somebody_wakes_it(world: World, step: str) -> None:
    instance = world.running()
    world.hibernate(instance)
    if step != "drain":
        world.run(instance, until=step)
    chain = world.wake(instance, limited=True)
    assert (chain.kind, chain.state) == ("hibernate", ChainState.ABORTED)
    assert (instance.state, instance.reason) == (InstanceState.RUNNING, "alice asked to wake it")
    assert (world.box(instance).state, len(world.rented())) == (BoxState.RUNNING, 1)


@pytest.mark.slow
def test_past_the_point_of_return_it_says_when_to_ask_again_and_uses_no_minute_up(world: World) -> None:
    instance = world.running()
    kept = world.copy(instance)
    world.hibernate(instance)
    world.run(instance, until="confirm")
    for _ in range(2):
        with pytest.raises(FallingAsleep) as refused:
            world.wake(instance, limited=True)
    assert (refused.value.status, refused.value.code) == (409, "falling_asleep")
    assert 0 < refused.value.retry_after_s <= 60
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert world.wake(instance, limited=True).kind == "wake"
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert world.differences(instance, kept) == []
