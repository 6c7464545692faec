"""Everything that goes wrong at vast.ai, ordered from its simulator: what its user reads, that no byte is lost, and that no
second box is paid for."""

from __future__ import annotations

from typing import Any

import pytest

from core.chain_states import ChainState
from core.errors import Busy
from core.models import Chain, Event
from hibernation.models import Box, Instance, MachineBan
from hibernation.states import BoxState, InstanceState
from tests.hibernation.chains.test_provider_faults import asleep_as_before, awake_again
from tests.hibernation.providers.hosts import eventually
from tests.hibernation.vast_world import VastWorld
from tests.hibernation.world import instance_state
from tests.simulators.vast.faults import FaultKind as K

pytestmark = pytest.mark.slow


def reasons_until(world: VastWorld, instance: Instance, step: str) -> list[str]:
    """What a person who watches the chain reads on its way to the step, each thing once."""
    read: list[str] = []

    def at(chain: Chain) -> bool:
        chain.refresh_from_db()
        if chain.reason and (not read or read[-1] != chain.reason):
            read.append(chain.reason)
        return chain.step == step

    world.run(instance, until=at)
    return read


def one_box_is_billed(world: VastWorld, instance: Instance) -> None:
    assert [row["label"] for row in world.rented()] == [world.box(instance).label]


# -- renting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [K.OFFER_GONE, pytest.param(K.BID_TOO_LOW, marks=pytest.mark.slow)])
def test_an_offer_that_is_gone_costs_nothing_and_the_next_machine_is_taken(
    vast_world: VastWorld, fault: K
) -> None:
    world = vast_world
    instance, kept = world.asleep()
    world.fault(fault)
    world.wake(instance)
    awake_again(world, instance, kept)
    refused = Box.objects.get(instance=instance, state=BoxState.REFUSED)
    assert (refused.reason_code, len(world.ever_rented())) == ("offer_gone", 2)
    assert world.box(instance).machine_id != refused.machine_id


def test_an_account_without_credit_ends_the_wake_and_says_what_to_do(vast_world: VastWorld) -> None:
    world = vast_world
    instance, _ = world.asleep()
    world.fault(K.NO_CREDIT)
    world.wake(instance)
    asleep_as_before(world, instance, "provider_refused")
    assert "the vast.ai account lacks credit" in instance.reason
    assert len(world.ever_rented()) == 1, "nothing was rented by this wake"


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        pytest.param(K.SUCCESS_FALSE, {"endpoint": "create"}, id="200 that failed"),
        pytest.param(K.SERVER_ERROR, {"endpoint": "create"}, id="500", marks=pytest.mark.slow),
        pytest.param(K.SILENCE, {"endpoint": "create"}, id="broken off", marks=pytest.mark.slow),
        pytest.param(K.GARBLED, {"endpoint": "create"}, id="garbled", marks=pytest.mark.slow),
    ],
)
def test_an_unclear_answer_that_rented_nothing_is_looked_for_and_then_another_is_rented(
    vast_world: VastWorld, fault: K, how: dict[str, Any]
) -> None:
    world = vast_world
    instance, kept = world.asleep()
    world.fault(fault, **how)
    world.wake(instance)
    read = reasons_until(world, instance, "boot")
    assert any(line.startswith("looking for a box with label dormouse-") for line in read)
    never = Box.objects.get(instance=instance, epoch=2)
    assert (never.state, never.reason_code) == (BoxState.REFUSED, "box_never_was")
    awake_again(world, instance, kept)
    assert len(world.ever_rented()) == 2, "the first night's box and this one"


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        pytest.param(K.CREATE_TIMES_OUT, 0, id="timed out"),
        pytest.param(K.CREATE_TIMES_OUT, 1, id="timed out and shows late", marks=pytest.mark.slow),
        pytest.param(K.CREATE_FALSE_BUT_RENTS, 1, id="200 that failed", marks=pytest.mark.slow),
        pytest.param(
            K.CREATE_FALSE_BUT_RENTS, 0, id="200 that failed, with a contract", marks=pytest.mark.slow
        ),
    ],
)
def test_an_unclear_answer_that_rented_is_found_by_its_label_and_never_rented_again(
    vast_world: VastWorld, fault: K, seconds: float
) -> None:
    world = vast_world
    instance, kept = world.asleep()
    world.fault(fault, seconds=seconds)
    world.wake(instance)
    reasons_until(world, instance, "boot")
    assert world.events(world.box(instance)) == ["box_renting", "box_rented"]
    assert "found at the provider by its label" in world.box(instance).reason
    awake_again(world, instance, kept)
    assert len(world.ever_rented()) == 2 and len(world.calls("create")) == 2


@pytest.mark.parametrize("seconds", [0, pytest.param(40, marks=pytest.mark.slow)])
def test_a_429_puts_the_step_off_for_as_long_as_it_says_and_rents_once(
    vast_world: VastWorld, seconds: float
) -> None:
    world = vast_world
    instance, kept = world.asleep()
    for endpoint in ("search", "create", "read"):
        world.fault(K.RATE_LIMITED, endpoint=endpoint, seconds=seconds)
    chain = world.wake(instance)
    world.run(instance, until="rent")
    world.enter(chain)
    assert chain.reason_code == "step_retry" and "too many requests" in chain.reason
    assert chain.next_at is not None
    assert (chain.next_at - world.now()).total_seconds() == pytest.approx(seconds or 10, abs=2)
    awake_again(world, instance, kept)
    assert len(world.ever_rented()) == 2


# -- booting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason", "within_s"),
    [
        pytest.param(K.OCI_ERROR, "OCI runtime create failed", 60, id="OCI error"),
        pytest.param(
            K.STUCK_LOADING, "did not come up within 15 minutes", 1200, id="stuck", marks=pytest.mark.slow
        ),
        pytest.param(K.OUTBID, "could not place it", 60, id="outbid", marks=pytest.mark.slow),
        pytest.param(K.FROZEN, "its GPU is billed", 60, id="frozen", marks=pytest.mark.slow),
    ],
)
def test_a_box_that_will_not_come_up_costs_its_machine_a_ban_and_another_is_rented(
    vast_world: VastWorld, fault: K, reason: str, within_s: float
) -> None:
    world = vast_world
    instance, kept = world.asleep()
    world.fault(fault)
    world.enrolling = fault is not K.FROZEN
    world.wake(instance)
    began = world.now()
    world.run(instance, until=lambda _: Box.objects.filter(epoch=3).exists(), stride_s=within_s / 20)
    assert (world.now() - began).total_seconds() < within_s
    world.enrolling = True
    doomed = Box.objects.get(epoch=2)
    told = " ".join(step.reason for step in world.chain(instance).steps.all()) + doomed.reason
    assert reason in told, "its user reads why"
    awake_again(world, instance, kept)
    assert [ban.machine_id for ban in MachineBan.objects.all()] == [doomed.machine_id]
    assert not world.simulator.contract(Box.objects.get(epoch=2).provider_ref)["lives"]


# -- listing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [K.LISTING_EMPTY, *(pytest.param(k, marks=pytest.mark.slow) for k in (K.LISTING_GONE, K.LISTING_PAGED_OFF, K.LISTING_SHORT))],
)  # fmt: skip
def test_a_listing_that_lies_makes_nothing_lost_and_nothing_gone(vast_world: VastWorld, fault: K) -> None:
    """While it runs, and while its box is asked to go and does not."""
    world = vast_world
    instance = world.running()
    other = world.running(owner=instance.owner, name="second")
    world.forward(60)
    world.fault(fault, count=1000)
    for _ in range(4):
        reconcile_or_busy(world)
    for row in (instance, other):
        assert (instance_state(row), world.box(row).state) == (InstanceState.RUNNING, BoxState.RUNNING)
    world.fault(K.DESTROY_IGNORED, count=2)
    chain = world.hibernate(instance)
    world.run(instance, until="confirm")
    for _ in range(3):
        world.forward(60)
        world.enter(chain)
        assert (chain.step, world.box(instance).state) == ("confirm", BoxState.DESTROYING)
        if world.simulator.contract(world.box(instance).provider_ref)["lives"]:
            assert world.box(instance).absent_since is None
    world.faults_clear()
    assert world.run(instance).state == ChainState.SUCCEEDED
    one_box_is_billed(world, other)


def reconcile_or_busy(world: VastWorld) -> None:
    try:
        world.reconcile()
    except Busy:
        world.forward(15)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [K.LISTING_EMPTY, K.LISTING_SHORT, K.LISTING_GONE])
def test_a_create_that_timed_out_is_not_given_up_for_a_listing_that_lies(
    vast_world: VastWorld, fault: K
) -> None:
    world = vast_world
    instance, kept = world.asleep()
    world.fault(K.CREATE_TIMES_OUT)
    world.fault(fault, count=3)
    world.wake(instance)
    awake_again(world, instance, kept)
    assert len(world.ever_rented()) == 2


# -- running ----------------------------------------------------------------------------------------------------------


def test_a_host_that_is_offline_for_a_while_loses_nothing_and_is_not_replaced(vast_world: VastWorld) -> None:
    world = vast_world
    instance = world.running()
    before = world.copy(instance)
    world.fault(K.OFFLINE, seconds=3600)
    world.forward(60)
    world.reconcile(times=3)
    [row] = world.rented()
    assert row["status"] == "offline"
    world.silence(instance)
    world.reconcile(times=3)
    assert (instance_state(instance), world.box(instance).state) == (InstanceState.RUNNING, BoxState.RUNNING)
    world.simulator.forward(3600)
    world.agent(instance).post()
    world.reconcile()
    one_box_is_billed(world, instance)
    assert world.differences(instance, before) == [] and len(world.ever_rented()) == 1


def test_a_box_that_its_host_has_frozen_is_told_of_with_what_it_costs_and_left_alone(
    vast_world: VastWorld,
) -> None:
    """Its GPU is billed and nothing runs, and it may hold work: a person decides."""
    world = vast_world
    instance = world.running()
    world.fault(K.FROZEN)
    eventually(lambda: world.rented()[0]["status"] == "frozen")
    world.reconcile(times=3)
    [told] = Event.objects.filter(code="failing_box", owner_id=instance.owner_id)
    assert "does not work, at $0.31" in told.reason and "its GPU is billed" in told.reason
    assert (instance_state(instance), world.box(instance).state) == (InstanceState.RUNNING, BoxState.RUNNING)
    one_box_is_billed(world, instance)


def test_a_box_that_dies_while_it_is_snapshotted_is_lost_and_wakes_from_its_last_generation(
    vast_world: VastWorld,
) -> None:
    world = vast_world
    instance, kept = world.asleep()
    world.wake(instance)
    world.run(instance)
    (world.agent(instance).workspace / "new").write_text("since this morning")
    world.hibernate(instance, by="", asked=False)
    world.run(instance, until="snapshot")
    world.enter(world.chain(instance))
    world.forward(60)
    world.fault(K.BOX_DIES)
    world.until_gone(world.box(instance).provider_ref)
    world.reconcile(times=3)
    instance.refresh_from_db()
    assert (instance.state, world.chain(instance).reason_code) == (InstanceState.LOST, "box_vanished")
    assert "the last verified generation is 1" in instance.reason
    world.wake(instance)
    awake_again(world, instance, kept)


@pytest.mark.parametrize("times", [1, pytest.param(7, marks=pytest.mark.slow)])
def test_a_destroy_that_answers_success_and_does_nothing_is_asked_for_until_the_box_is_gone(
    vast_world: VastWorld, times: int
) -> None:
    world = vast_world
    instance = world.running()
    ref = world.box(instance).provider_ref
    world.fault(K.DESTROY_IGNORED, count=times)
    chain = world.hibernate(instance)
    world.run(instance, until="confirm")
    world.enter(chain)
    if times > 1:
        assert chain.reason == "the provider still has it: running"
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert (instance_state(instance), world.rented()) == (InstanceState.HIBERNATED, [])
    assert world.simulator.contract(ref)["destroys"] > times


def test_a_night_and_a_morning_with_null_in_every_field_that_may_be_null(vast_world: VastWorld) -> None:
    world = vast_world
    world.fault(K.NULLS, count=100_000)
    instance, kept = world.asleep()
    world.wake(instance)
    assert world.run(instance, stride_s=5).state == ChainState.SUCCEEDED
    assert world.differences(instance, kept) == [] and instance_state(instance) == InstanceState.RUNNING
    world.reconcile(times=3)
    assert [row["ref"] for row in world.rented()] == [world.box(instance).provider_ref]
    assert len(world.ever_rented()) == 2


# -- money ------------------------------------------------------------------------------------------------------------


def test_a_box_keeps_what_its_provider_asks_for_gpu_disk_and_traffic(vast_world: VastWorld) -> None:
    world = vast_world
    instance = world.running(disk_bytes=40 * 10**9)
    box = world.box(instance)
    box.refresh_from_db()
    [row] = world.rented()
    machine = row["machine"]
    assert (machine["machine_id"], box.machine_id) == (1002, "1002"), "the cheapest that is good enough"
    assert float(box.gpu_usd_per_h) == pytest.approx(machine["dph_base"], abs=1e-6)
    assert float(box.disk_usd_per_gb_month) == machine["storage_cost"]
    assert (float(box.upload_usd_per_gb), float(box.download_usd_per_gb)) == (0.003, 0.002)
    assert box.disk_bytes == row["disk_gb"] * 10**9
    assert float(box.price_usd_per_h) == pytest.approx(machine["dph_base"] + 0.15 * 40 / 720, abs=1e-4)
