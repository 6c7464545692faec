"""Everything that goes wrong at a provider, ordered from the real host: one box for one wake, and none that nobody pays for."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from core.chain_states import ChainState
from core.errors import TransitionRefused
from core.models import Event, TickRun
from hibernation.chains import renting
from hibernation.models import Box, Instance, MachineBan
from hibernation.providers.base import BoxFacts, Phase
from hibernation.providers.local import LocalProvider
from hibernation.providers.local_faults import FaultKind as K
from hibernation.services import pursuit
from hibernation.services.boxes import provider_of
from hibernation.states import BoxState, InstanceState
from snapshots.states import SnapshotState
from tests.hibernation.providers.hosts import eventually
from tests.hibernation.world import World, instance_state, last_generation, listed, worker_of

pytestmark = pytest.mark.slow


def awake_again(world: World, instance: Instance, kept: Path, *, stride_s: float = 0) -> None:
    """Hold the end of a wake to everything it promises."""
    chain = world.run(instance, stride_s=stride_s)
    assert chain.state == ChainState.SUCCEEDED, chain.reason
    assert instance_state(instance) == InstanceState.RUNNING
    assert world.differences(instance, kept) == []
    world.reconcile(times=4)
    assert [book["label"] for book in world.rented()] == [world.box(instance).label], "no other box is billed"
    left = Box.objects.exclude(pk=world.box(instance).pk).values_list("state", flat=True)
    assert set(left) <= {BoxState.GONE, BoxState.REFUSED}


def asleep_as_before(world: World, instance: Instance, reason: str) -> None:
    """Hold a wake that failed to everything it promises."""
    generation = instance.snapshot_id
    chain = world.run(instance, stride_s=60)
    instance.refresh_from_db()
    assert (chain.state, chain.reason_code) == (ChainState.FAILED, reason)
    assert (instance.state, instance.snapshot_id) == (InstanceState.HIBERNATED, generation)
    assert (instance.reason_code, instance.restore_incomplete) == (reason, False)
    assert instance.delete_due_at is not None and instance.delete_due_at > world.now()
    assert last_generation(instance).state == SnapshotState.VERIFIED
    assert world.events(instance)[-1] == "wake_failed"
    world.reconcile(times=4)
    assert world.rented() == [], "no box is left"
    assert not Box.objects.exclude(state__in=(BoxState.GONE, BoxState.REFUSED)).exists()


# -- creating -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "seconds", "boxes"),
    [
        pytest.param(K.CREATE_BUSY, 7, 2, marks=pytest.mark.slow),
        pytest.param(K.CREATE_OFFER_GONE, 0, 3, marks=pytest.mark.slow),
        (K.CREATE_UNKNOWN, 0, 2),
        pytest.param(K.CREATE_LOST, 0, 3, marks=pytest.mark.slow),
    ],
)
def test_a_create_that_goes_wrong_once(world: World, fault: K, seconds: float, boxes: int) -> None:
    """busy: the same box is asked for again. Gone, lost: another. Answer lost: the box is found by its label."""
    instance, kept = world.asleep()
    world.fault(fault, seconds=seconds)
    world.wake(instance)
    awake_again(world, instance, kept)
    assert Box.objects.count() == boxes


def test_a_box_that_is_found_by_its_label_is_billed_from_when_the_provider_made_it(world: World) -> None:
    """The control plane was away for half an hour between the call and the look; the provider was not."""
    instance, _ = world.asleep()
    world.fault(K.CREATE_UNKNOWN)
    world.wake(instance)
    world.run(instance, until=lambda chain: world.box(instance).state == BoxState.RENTING)
    box = world.box(instance)
    assert box.create_asked_at is not None
    made_at = next(facts.created_at for facts in provider_of(box.account).listing())
    world.forward(1800)
    world.run(instance, until="boot", agents=False)
    box.refresh_from_db()
    assert (box.state, box.rented_at) == (BoxState.BOOTING, made_at)


@pytest.mark.slow
def test_a_box_whose_create_timed_out_and_which_shows_late_is_destroyed(world: World) -> None:
    """The provider's listing lags for longer than it says: another box was rented meanwhile."""
    instance, kept = world.asleep()
    world.fault(K.CREATE_UNKNOWN, seconds=1.5)
    world.enrolling = False
    world.wake(instance)
    world.run(instance, until="boot", agents=False)
    second = world.box(instance)
    late = Box.objects.get(instance=instance, epoch=second.epoch - 1)
    assert late.state == BoxState.REFUSED, "it was looked for after create_settles_s and not found"
    eventually(lambda: late.label in listed(instance.account))
    world.reconcile(times=3)
    late.refresh_from_db()
    assert (late.state, late.rented_at is not None) == (BoxState.GONE, True), "it was billed, and is gone"
    assert world.events(late)[-2:] == ["box_turned_up", "box_gone"]
    world.enrolling = True
    awake_again(world, instance, kept)


def test_a_box_whose_agent_has_enrolled_exists_however_late_it_is_listed(world: World) -> None:
    instance, kept = world.asleep()
    world.fault(K.CREATE_UNKNOWN, seconds=1.5)
    world.wake(instance)
    awake_again(world, instance, kept)
    assert Box.objects.filter(instance=instance).count() == 2, "the one of before, and this one"


def test_a_provider_that_refuses_ends_the_wake_at_once(world: World) -> None:
    instance, _ = world.asleep()
    world.fault(K.CREATE_REFUSED)
    world.wake(instance)
    asleep_as_before(world, instance, "provider_refused")
    assert "credit" in instance.reason
    assert Box.objects.filter(state=BoxState.REFUSED).count() == 1


@pytest.mark.slow
def test_offers_that_are_always_gone_end_the_wake(world: World) -> None:
    instance, _ = world.asleep()
    world.fault(K.CREATE_OFFER_GONE, count=100)
    world.wake(instance)
    asleep_as_before(world, instance, "no_offer")


@pytest.mark.slow
def test_creates_that_are_always_lost_end_the_wake(world: World) -> None:
    """Nobody's machine is at fault, so none is left out; the count of boxes ends it."""
    instance, _ = world.asleep()
    world.fault(K.CREATE_LOST, count=100)
    world.wake(instance)
    asleep_as_before(world, instance, "wake_gave_up")
    assert Box.objects.count() == 1 + renting.BOXES_AT_MOST


@pytest.mark.slow
def test_a_price_cap_is_kept_and_the_wait_is_told(world: World) -> None:
    instance, _ = world.asleep()
    Instance.objects.filter(pk=instance.pk).update(price_cap_usd_per_h=Decimal("0.01"))
    world.wake(instance)
    chain = world.run(instance, until="rent")
    world.enter(chain)
    assert chain.reason_code == "waiting_for_offer"
    assert "at most 0.0100 an hour" in chain.reason
    asleep_as_before(world, instance, "no_offer")


@pytest.mark.slow
def test_a_machine_that_is_banned_is_not_taken(world: World) -> None:
    instance, kept = world.asleep()
    for machine in ("m-us-4090", "m-sp-4090"):
        MachineBan.objects.create(
            account_kind="local", machine_id=machine, until=world.now() + timedelta(days=1)
        )
    world.wake(instance)
    awake_again(world, instance, kept)
    assert world.box(instance).machine_id == "m-eu-4090"


@pytest.mark.slow
def test_an_account_that_was_switched_off_rents_nothing(world: World) -> None:
    instance, _ = world.asleep()
    type(instance.account).objects.update(enabled=False)
    world.wake(instance)
    asleep_as_before(world, instance, "account_disabled")


# -- booting --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_box_that_never_boots_costs_its_machine_a_ban(world: World) -> None:
    instance, kept = world.asleep()
    world.fault(K.BOOT_NEVER)
    world.wake(instance)
    awake_again(world, instance, kept, stride_s=60)
    never = Box.objects.get(epoch=2)
    assert never.reason_code == "box_seen_gone"
    assert [ban.machine_id for ban in MachineBan.objects.all()] == [never.machine_id]
    assert world.box(instance).machine_id != never.machine_id


@pytest.mark.slow
def test_boxes_that_never_boot_end_the_wake(world: World) -> None:
    instance, _ = world.asleep()
    world.fault(K.BOOT_NEVER, count=100)
    world.wake(instance)
    asleep_as_before(world, instance, "no_offer")
    assert MachineBan.objects.count() == 3, "every machine with that GPU"


@pytest.mark.slow
def test_our_own_absence_is_not_the_boxs_fault(world: World) -> None:
    """The control plane was away for an hour: the box had nobody to enrol with."""
    instance, kept = world.asleep()
    world.enrolling = False
    world.wake(instance)
    chain = world.run(instance, until="boot")
    world.forward(3600)
    TickRun.objects.update_or_create(
        name="core.chains_tick", defaults={"started_at": world.now(), "resumed_at": world.now()}
    )
    world.enter(chain)
    assert (chain.step, chain.reason_code) == ("boot", "booting")
    world.enrolling = True
    awake_again(world, instance, kept)
    assert Box.objects.count() == 2


@pytest.mark.slow
def test_a_box_that_dies_while_it_boots_is_replaced(world: World) -> None:
    instance, kept = world.asleep()
    world.fault(K.BOX_DIES)
    world.enrolling = False
    world.wake(instance)
    world.run(instance, until=lambda chain: Box.objects.filter(epoch=3).exists())
    world.enrolling = True
    awake_again(world, instance, kept)


@pytest.mark.slow
def test_a_box_whose_agent_cannot_even_start_is_given_up_before_its_deadline(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, kept = world.asleep()
    world.enrolling = False
    world.wake(instance)
    world.run(instance, until="boot")
    began, read = world.now(), LocalProvider.read
    doomed = world.box(instance).provider_ref

    def failed(provider: LocalProvider, ref: str) -> object:
        facts = read(provider, ref)
        if facts is None or ref != doomed:
            return facts
        return replace(facts, failed=True, message="its image cannot be pulled")

    monkeypatch.setattr(LocalProvider, "read", failed)
    world.enter(world.chain(instance))
    assert (world.now() - began).total_seconds() < 60
    assert world.chain(instance).reason_code == "box_failed"
    world.enrolling = True
    awake_again(world, instance, kept)


# -- listing ---------------------------------------------------------------------------------------------------------------


def test_an_incomplete_or_silent_listing_proves_no_absence(world: World) -> None:
    instance = world.running()
    world.hibernate(instance)
    chain = world.run(instance, until="confirm")
    world.settled()
    world.fault(K.LISTING_INCOMPLETE, count=2)
    world.fault(K.LISTING_BUSY, count=2)
    for _ in range(4):
        world.forward(60)
        world.enter(chain)
        assert (chain.step, world.box(instance).state) == ("confirm", BoxState.DESTROYING)
        assert world.box(instance).absent_since is None
    assert world.run(instance).state == ChainState.SUCCEEDED


def test_a_listing_that_forgets_a_box_that_lives_loses_nothing(world: World) -> None:
    instance = world.running()
    world.forward(60)
    world.fault(K.BOX_HIDDEN, count=6)
    world.reconcile(times=3)
    assert (instance_state(instance), world.box(instance).state) == (InstanceState.RUNNING, BoxState.RUNNING)


# -- destroying ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "count"),
    [
        (K.DESTROY_IGNORED, 1),
        pytest.param(K.DESTROY_IGNORED, 6, marks=pytest.mark.slow),
        pytest.param(K.DESTROY_BUSY, 6, marks=pytest.mark.slow),
    ],
)
def test_a_destroy_that_does_nothing_is_asked_for_until_the_box_is_gone(
    world: World, fault: K, count: int
) -> None:
    instance = world.running()
    world.fault(fault, count=count, seconds=1)
    world.hibernate(instance)
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert (instance_state(instance), world.rented()) == (InstanceState.HIBERNATED, [])


@pytest.mark.slow
def test_a_box_that_will_not_go_is_told_of_with_what_it_costs_and_never_called_gone(world: World) -> None:
    instance = world.running()
    world.fault(K.DESTROY_IGNORED, count=1000)
    world.hibernate(instance)
    chain = world.run(instance, until="confirm")
    for _ in range(90):  # an hour and a half
        world.forward(60)
        world.enter(chain)
    box = world.box(instance)
    assert (chain.state, chain.step, box.state) == (ChainState.ACTIVE, "confirm", BoxState.DESTROYING)
    assert instance_state(instance) == InstanceState.HIBERNATING
    told = Event.objects.filter(code="box_still_there", subject_id=box.pk)
    assert 5 <= told.count() <= 9, "about every ten minutes, not with every try"
    assert "$0.36" in told[0].reason and "still there" in told[0].reason
    world.faults_clear()
    assert world.run(instance).state == ChainState.SUCCEEDED


def test_a_flickering_listing_starts_the_count_anew(world: World) -> None:
    """Absent, there again, absent: that is one look that saw nothing, not two."""
    instance = world.running()
    world.hibernate(instance)
    world.run(instance, until="confirm")
    world.settled()
    box, provider = world.box(instance), provider_of(instance.account)
    there = BoxFacts(ref="another", label=box.label, phase=Phase.RUNNING)
    assert pursuit.box_pursue(box, provider, now=world.now()) is not None
    world.forward(5)
    assert pursuit.box_pursue(box, provider, now=world.now(), listed=[there]) == there
    assert box.absent_since is None
    world.forward(5)
    assert pursuit.box_pursue(box, provider, now=world.now()) is not None, "seen once"
    world.forward(5)
    assert pursuit.box_pursue(box, provider, now=world.now()) is None


# -- dying ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_box_that_dies_while_it_is_snapshotted_is_lost_not_hibernated(world: World) -> None:
    instance, kept = world.asleep()
    world.wake(instance)
    world.run(instance)
    (world.agent(instance).workspace / "new").write_text("since this morning")
    world.hibernate(instance, by="", asked=False)
    world.run(instance, until="snapshot")
    world.enter(world.chain(instance))
    world.forward(60)
    world.fault(K.BOX_DIES)
    world.until_gone(instance)
    world.reconcile(times=3)
    instance.refresh_from_db()
    chain = world.chain(instance)
    assert (chain.state, chain.reason_code) == (ChainState.FAILED, "box_vanished")
    assert (instance.state, world.box(instance).state) == (InstanceState.LOST, BoxState.GONE)
    assert "the last verified generation is 1" in instance.reason
    world.wake(instance)
    awake_again(world, instance, kept)


def test_a_box_that_vanishes_from_a_running_instance_can_be_woken_from_its_last_generation(
    world: World,
) -> None:
    instance, kept = world.asleep()
    world.wake(instance)
    world.run(instance)
    world.forward(60)
    world.fault(K.BOX_DIES)
    world.until_gone(instance)
    world.reconcile()
    assert instance_state(instance) == InstanceState.RUNNING, "seen absent once"
    world.reconcile()
    assert instance_state(instance) == InstanceState.LOST
    world.wake(instance)
    awake_again(world, instance, kept)


def test_an_instance_that_was_never_saved_is_lost_and_says_so(world: World) -> None:
    instance = world.running()
    world.forward(60)
    world.fault(K.BOX_DIES)
    world.until_gone(instance)
    world.reconcile(times=2)
    instance.refresh_from_db()
    assert instance.state == InstanceState.LOST and "generation is none" in instance.reason
    with pytest.raises(TransitionRefused, match="no verified generation") as refused:
        world.wake(instance)
    assert refused.value.code == "no_generation"


# -- provisioning -----------------------------------------------------------------------------------------------------------


def test_provisioning_that_fails_ends_as_deleted_with_its_reason_and_its_name_is_free_again(
    world: World,
) -> None:
    world.fault(K.CREATE_REFUSED)
    instance = world.create()
    assert world.run(instance).state == ChainState.FAILED
    instance.refresh_from_db()
    assert (instance.state, instance.reason_code) == (InstanceState.DELETED, "provider_refused")
    assert world.events(instance)[-1] == "provisioning_failed"
    world.reconcile()
    assert world.rented() == []
    again = world.create(owner=instance.owner)
    assert again.name == "studio" and world.run(again).state == ChainState.SUCCEEDED
    assert worker_of(again).pk != instance.worker_id
