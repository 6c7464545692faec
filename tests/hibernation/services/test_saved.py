"""What an agent is told to be saved: a verified generation of its own epoch, for as long as it is whole."""

from __future__ import annotations

import json

from core import broker
from gateway import keys
from hibernation.services.saved import saved_take_back
from pool.models import Worker
from snapshots.models import Snapshot
from snapshots.states import SnapshotState
from tests.hibernation.world import World, last_generation, worker_of


def orders(worker_id: str) -> list[dict[str, str]]:
    return list(json.loads(broker.client().hget(keys.ORDERS, worker_id) or "[]"))


def saved_at(world: World) -> tuple[str, str, Snapshot]:
    """An instance that is about to be let go: (instance's worker, its account, the generation)."""
    instance = world.running()
    world.hibernate(instance)
    world.run(instance, until="verify")
    worker = worker_of(instance)
    assert [order["kind"] for order in orders(worker.pk)] == ["drain"]
    world.run(instance, until="recheck")
    return worker.pk, instance.account_id, last_generation(instance)


def test_an_agent_is_told_when_its_generation_is_verified_and_when_it_is_whole_no_longer(
    world: World,
) -> None:
    worker_id, _, generation = saved_at(world)
    assert {"kind": "saved", "id": generation.pk} in orders(worker_id)
    account = worker_of_pk(worker_id).account
    assert saved_take_back(account) == 0 and {"kind": "saved", "id": generation.pk} in orders(worker_id)
    Snapshot.objects.filter(pk=generation.pk).update(state=SnapshotState.DAMAGED)
    world.reconcile()
    assert "saved" not in {order["kind"] for order in orders(worker_id)}
    assert worker_of_pk(worker_id).saved_ref == ""


def test_the_next_box_begins_with_nothing_saved(world: World) -> None:
    instance, _ = world.asleep()
    worker = worker_of(instance)
    type(worker).objects.filter(pk=worker.pk).update(saved_ref="sn_of_last_night")
    world.wake(instance)
    world.run(instance)
    assert worker_of(instance).saved_ref == ""


def worker_of_pk(pk: str) -> Worker:
    return Worker.objects.select_related("account").get(pk=pk)
