"""Instances: asked for, held awake, given up; and what the clock does with those that sleep."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from core.errors import Busy, DomainError, Invalid, TransitionRefused
from core.models import Chain, Event
from core.reasons import because
from hibernation.models import Box, Instance, MachineBan, Schedule
from hibernation.policy import PolicyInvalid
from hibernation.providers.base import Offer
from hibernation.services import offers
from hibernation.services.hibernate import instance_hibernate
from hibernation.services.instances import instance_create, instance_delete, instance_keep_awake
from hibernation.services.lifecycle import (
    LOOK_AGAIN,
    instance_pause_end,
    instances_to_delete,
    overdue_mark,
)
from hibernation.states import BoxState, InstanceState
from pool.models import Worker
from snapshots.models import Snapshot
from snapshots.states import SnapshotState
from tests.hibernation.rows import (
    T0,
    account_of,
    asleep_of,
    at,
    instance_of,
    person,
    snapshot_of,
    work_of,
)
from tests.hibernation.world import World, instance_state, last_generation

pytestmark = pytest.mark.usefixtures("valkey")


# -- made -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": " "}, "the name ' ' will not do"),
        ({"name": "a\nb"}, "will not do"),
        ({"name": "n" * 81}, "will not do"),
        ({"gpu_type": "g" * 81}, "gpu_type"),
        ({"region": "r\x00"}, "region"),
        ({"price_cap_usd_per_h": Decimal(0)}, "price cap of 0"),
        ({"price_cap_usd_per_h": Decimal("NaN")}, "price cap of NaN"),
        ({"price_cap_usd_per_h": Decimal("Infinity")}, "price cap of Infinity"),
        ({"disk_bytes": 0}, "a disk of 0 bytes"),
        ({"disk_bytes": 2**62}, "a disk of"),
        ({"on_wake": "echo \x00"}, "what starts on wake"),
        ({"on_wake": "\udcff"}, "what starts on wake"),
        ({"on_wake": "x" * 70_000}, "what starts on wake"),
        ({"config": {"auto_hibernation": {"gpu_usage_threshold": 300}}}, "gpu_usage_threshold"),
    ],
)
def test_a_field_that_will_not_do_is_refused_and_nothing_is_written(
    db: None, wrong: dict[str, Any], says: str
) -> None:
    alice = person()
    given = {"owner": alice, "name": "studio", "account": account_of(alice), "by": "alice", **wrong}
    with pytest.raises((Invalid, PolicyInvalid), match=says):
        instance_create(**given, now=T0)
    assert not Instance.objects.exists() and not Worker.objects.exists() and not Chain.objects.exists()


def test_an_account_that_cannot_rent_or_is_another_persons_is_refused(db: None) -> None:
    alice, bob = person(), person("bob")
    colab, foreign, off = (
        account_of(alice, kind="colab"),
        account_of(bob),
        account_of(alice, label="off"),
    )
    type(off).objects.filter(pk=off.pk).update(enabled=False)
    off.refresh_from_db()
    for account, says in ((colab, "nothing can be rented"), (foreign, "somebody else"), (off, "is disabled")):
        with pytest.raises(Invalid, match=says):
            instance_create(owner=alice, name="studio", account=account, by="alice", now=T0)


def test_a_name_is_used_once_and_a_schedule_counts_from_the_first_moment(db: None) -> None:
    alice = person()
    account = account_of(alice)
    schedule = {"wake_time": "09:00", "sleep_time": "18:00", "timezone": "UTC"}
    config = {"auto_hibernation": {"wake_method": "scheduled", "schedule": schedule}}
    made = instance_create(owner=alice, name="studio", account=account, config=config, by="alice", now=T0)
    assert Schedule.objects.get(instance=made).next_sleep_at == at(3.5 * 3600)
    with pytest.raises(Invalid, match="you have an instance called studio already"):
        instance_create(owner=alice, name="studio", account=account, by="alice", now=T0)
    assert Instance.objects.count() == 1


def test_a_new_instance_says_from_its_first_moment_who_asked_for_it(db: None) -> None:
    alice = person()
    made = instance_create(owner=alice, name="studio", account=account_of(alice), by="alice", now=T0)
    assert made.reason == "alice asked for a new instance"


def test_one_that_holds_a_generation_keeps_its_name(db: None) -> None:
    alice = person()
    asleep_of(alice, state=InstanceState.DELETED)
    with pytest.raises(Invalid, match="already"):
        instance_create(owner=alice, name="studio", account=alice.accounts.get(), by="alice", now=T0)


# -- held awake ---------------------------------------------------------------------------------------------------------------


def test_a_hold_on_one_that_sleeps_says_to_wake_it_first(db: None) -> None:
    instance = asleep_of(person())
    with pytest.raises(TransitionRefused) as refused:
        instance_keep_awake(instance, minutes=5, by="alice", now=T0)
    assert refused.value.hint == "wake it first"
    instance_keep_awake(instance, minutes=0, by="alice", now=T0)


@pytest.mark.parametrize("minutes", [-1, 10_081, float("nan"), float("inf")])
def test_a_hold_of_no_sensible_length_is_refused(db: None, minutes: float) -> None:
    with pytest.raises(Invalid, match="minutes"):
        instance_keep_awake(instance_of(person()), minutes=minutes, by="alice", now=T0)


def test_a_hold_brings_an_idle_one_back_and_its_window_begins_anew(db: None) -> None:
    instance = instance_of(person(), state=InstanceState.IDLE, idle_since=T0, idle_due_at=at(180))
    instance_keep_awake(instance, minutes=30, by="alice", now=at(100))
    assert (instance.state, instance.idle_since, instance.idle_due_at) == (InstanceState.RUNNING, None, None)
    assert (instance.keep_awake_until, instance.last_active_at) == (at(1900), at(100))


@pytest.mark.parametrize("how", ["hold", "job"])
def test_a_person_who_asks_for_sleep_is_told_at_once_what_is_in_the_way(db: None, how: str) -> None:
    instance = instance_of(person())
    if how == "hold":
        instance_keep_awake(instance, minutes=30, by="alice", now=T0)
    else:
        work_of(instance)
    with pytest.raises(DomainError) as refused:
        instance_hibernate(instance, reason=because("hibernate_asked", by="a"), by="a", now=T0)
    assert refused.value.code == {"hold": "kept_awake", "job": "job_on_it"}[how]
    assert instance_state(instance) == InstanceState.RUNNING and not Chain.objects.exists()


# -- given up -----------------------------------------------------------------------------------------------------------------


def test_one_that_sleeps_is_given_up_and_its_generation_stays(db: None) -> None:
    instance = asleep_of(person())
    assert instance_delete(instance, discard=False, by="alice", now=T0) is None
    assert instance_state(instance) == InstanceState.DELETED
    assert Snapshot.objects.get().state == SnapshotState.VERIFIED


# -- the delete window -----------------------------------------------------------------------------------------------------------


def paused(world: World) -> Instance:
    world.asleep()
    assert instances_to_delete(now=world.now()) == []
    world.forward(31 * 60)
    (due,) = instances_to_delete(now=world.now())
    return due


def test_after_its_window_a_whole_generation_is_checked_once_more_and_stays(world: World) -> None:
    instance = paused(world)
    assert instance_pause_end(instance, now=world.now())
    instance.refresh_from_db()
    assert (instance.state, instance.reason_code) == (InstanceState.DELETED, "paused_long_enough")
    assert "generation 1 was checked once more and stays" in instance.reason
    generation = last_generation(instance)
    assert (generation.state, generation.checked_at) == (SnapshotState.VERIFIED, world_time(generation))
    world.wake(instance)
    assert world.run(instance).state == "succeeded", "it can still be woken"


def world_time(generation: Snapshot) -> Any:
    assert generation.checked_at is not None and generation.verified_at is not None
    assert generation.checked_at - generation.verified_at > timedelta(minutes=30)
    return generation.checked_at


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_a_generation_that_is_not_whole_any_more_is_told_and_never_given_up(world: World, harm: str) -> None:
    instance = paused(world)
    pack = next(Path(settings.SNAPSHOT_STORE).glob("o/*/p/*"))
    data = pack.read_bytes()
    pack.unlink()
    if harm == "damaged":
        pack.write_bytes(data[:-7])
    assert not instance_pause_end(instance, now=world.now())
    instance.refresh_from_db()
    assert (instance.state, last_generation(instance).state) == (
        InstanceState.HIBERNATED,
        SnapshotState.DAMAGED,
    )
    assert world.events(instance)[-1] == "snapshot_damaged"
    assert instance.delete_due_at is not None
    assert instance.delete_due_at - world.now() > LOOK_AGAIN - timedelta(minutes=1)
    pack.unlink(missing_ok=True)
    pack.write_bytes(data)
    world.forward(3601)
    (again,) = instances_to_delete(now=world.now())
    assert instance_pause_end(again, now=world.now())
    assert last_generation(instance).state == SnapshotState.VERIFIED


@pytest.mark.slow
def test_a_store_that_is_away_decides_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from snapshots.engine.store.base import StoreBusy
    from snapshots.engine.store.folder import FolderStore

    instance = paused(world)

    def busy(self: FolderStore, key: str) -> object:
        raise StoreBusy("away")

    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "head", busy)
        with pytest.raises(Busy):
            instance_pause_end(instance, now=world.now())
    assert instance_state(instance) == InstanceState.HIBERNATED
    world.forward(301)
    (again,) = instances_to_delete(now=world.now())
    assert instance_pause_end(again, now=world.now())


# -- too long --------------------------------------------------------------------------------------------------------------------


def test_what_is_overdue_is_told_once_an_hour(db: None) -> None:
    instance = instance_of(person())
    Instance.objects.update(state=InstanceState.HIBERNATING, state_deadline=T0)
    Box.objects.update(state=BoxState.BOOTING, state_deadline=T0, handed_over_at=None)
    assert overdue_mark(now=at(1)) == 2
    assert overdue_mark(now=at(2)) == 0
    assert overdue_mark(now=at(3602)) == 2
    assert Event.objects.filter(code="overdue").count() == 4
    assert instance_state(instance) == InstanceState.HIBERNATING


def test_a_long_pause_window_is_not_cut_off_by_the_limit_of_idleness(db: None) -> None:
    from hibernation.policy import PAUSE_AT_MOST_MINUTES
    from hibernation.states import INSTANCE

    assert INSTANCE.limits[InstanceState.IDLE].minutes > PAUSE_AT_MOST_MINUTES


def test_an_idle_row_that_nobody_judged_for_days_is_running_again_with_a_new_window(db: None) -> None:
    instance_of(person(), state=InstanceState.IDLE, idle_since=T0, idle_due_at=at(180))
    Instance.objects.update(state_deadline=T0)
    assert overdue_mark(now=at(1)) == 1
    row = Instance.objects.get()
    assert (row.state, row.idle_since, row.idle_due_at) == (InstanceState.RUNNING, None, None)


def test_a_generation_that_nobody_finished_in_a_day_has_failed(db: None) -> None:
    instance = instance_of(person())
    for number, state in enumerate((SnapshotState.TAKING, SnapshotState.COMMITTED), start=1):
        snapshot = snapshot_of(instance, generation=number)
        Snapshot.objects.filter(pk=snapshot.pk).update(state=state, state_deadline=T0, verified_at=None)
    assert overdue_mark(now=at(1)) == 2
    assert set(Snapshot.objects.values_list("state", flat=True)) == {SnapshotState.FAILED}


# -- offers -----------------------------------------------------------------------------------------------------------------------


def offer(machine: str, gpu: str, region: str, price: str) -> Offer:
    return Offer(
        id=f"{machine}.1",
        machine_id=machine,
        gpu_name=gpu,
        gpu_count=1,
        gpu_mem_bytes=1,
        region=region,
        price_usd_per_h=Decimal(price),
    )


def test_offers_rank_by_gpu_then_region_then_the_machine_it_knows_then_price() -> None:
    rows = [
        offer("cheap-a100", "A100", "sp", "0.10"),
        offer("known", "RTX 4090", "sp", "0.50"),
        offer("near", "RTX 4090", "sp", "0.40"),
        offer("far", "RTX 4090", "us", "0.20"),
    ]
    ranked = sorted(rows, key=lambda row: offers.rank(row, "NVIDIA GeForce RTX 4090", "SP", "known"))
    assert [row.machine_id for row in ranked] == ["known", "near", "far", "cheap-a100"]


def test_another_gpu_is_taken_only_below_a_cap_and_banned_or_tried_machines_never(world: World) -> None:
    instance, _ = world.asleep()
    now = world.now()
    every = [row.machine_id for row in offers.offers_ranked(instance, now=now)]
    assert every and all("4090" in machine for machine in every), "no cap: nobody said what another may cost"
    Instance.objects.update(price_cap_usd_per_h=Decimal("0.40"))
    instance.refresh_from_db()
    capped = [row.machine_id for row in offers.offers_ranked(instance, now=now)]
    assert capped[0] == "m-us-4090" and "m-sp-t4" in capped, "the next GPU type within the cap comes last"
    MachineBan.objects.create(account_kind="local", machine_id="m-us-4090", until=now + timedelta(hours=1))
    later = [row.machine_id for row in offers.offers_ranked(instance, tried=["m-sp-t4"], now=now)]
    assert not {"m-us-4090", "m-sp-t4"} & set(later)
    after = offers.offers_ranked(instance, now=now + timedelta(hours=2))
    assert after[0].machine_id == "m-us-4090", "a ban ends"


def test_the_lower_of_two_caps_counts(db: None) -> None:
    instance = instance_of(person(), price_cap_usd_per_h=Decimal("0.9"))
    assert offers.price_cap(instance) == Decimal("0.9")
    instance.account.price_cap_usd_per_h = Decimal("0.5")
    assert offers.price_cap(instance) == Decimal("0.5")
