"""Two copies of the same row, as old as each other: one of them wins, the other is told, and nothing is done twice."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from core.errors import DomainError, TransitionRefused
from core.models import Chain, Event
from core.reasons import because
from hibernation.models import Box, Instance
from hibernation.providers.base import BoxFacts, Offer, Phase
from hibernation.services import boxes
from hibernation.services.hibernate import hibernation_stop, instance_hibernate
from hibernation.services.instances import instance_delete, instance_keep_awake
from hibernation.services.lifecycle import instance_pause_end
from hibernation.services.wake import instance_wake, wake_stop
from hibernation.states import BoxState, InstanceState
from snapshots.models import Snapshot
from snapshots.services.deleting import snapshot_delete
from tests.hibernation.rows import T0, asleep_of, at, box_of, instance_of, person, snapshot_of

pytestmark = pytest.mark.usefixtures("db", "valkey")

OFFER = Offer(
    id="o1",
    machine_id="m1",
    gpu_name="RTX 4090",
    gpu_count=1,
    gpu_mem_bytes=24 * 1024**3,
    region="eu",
    price_usd_per_h=Decimal("0.40"),
)


def both(row: Any) -> tuple[Any, Any]:
    return type(row).objects.get(pk=row.pk), type(row).objects.get(pk=row.pk)


def hibernate(instance: Instance) -> Chain:
    return instance_hibernate(instance, reason=because("hibernate_asked", by="a"), by="a", now=T0)


def test_hibernated_twice() -> None:
    a, b = both(instance_of(person()))
    hibernate(a)
    with pytest.raises(TransitionRefused, match="it is hibernating"):
        hibernate(b)
    assert Chain.objects.count() == 1 and Event.objects.filter(code="hibernating").count() == 1


def test_hibernated_and_discarded() -> None:
    a, b = both(instance_of(person()))
    hibernate(a)
    chain = instance_delete(b, discard=True, by="alice", now=T0)
    assert chain is not None, "the hibernation is stopped for it, because its box is untouched"
    assert list(Chain.objects.order_by("created_at", "pk").values_list("state", flat=True).distinct()) != []
    assert Chain.objects.filter(state="active").get().kind == "discard"


def test_stopped_twice() -> None:
    instance = instance_of(person())
    hibernate(instance)
    a, b = both(instance)
    hibernation_stop(a, by="alice", now=T0)
    with pytest.raises(TransitionRefused, match="is not hibernating"):
        hibernation_stop(b, by="bob", now=T0)
    assert Event.objects.filter(code="hibernation_stopped").count() == 1


def test_kept_awake_with_a_copy_that_was_idle_before() -> None:
    """The verdict has moved it meanwhile: a hold counts all the same."""
    instance = instance_of(person(), state=InstanceState.IDLE, idle_since=T0, idle_due_at=at(180))
    a, b = both(instance)
    Instance.objects.filter(pk=instance.pk).update(state=InstanceState.RUNNING)
    for copy in (a, b):
        held = instance_keep_awake(copy, minutes=5, by="alice", now=T0)
        assert (held.state, held.keep_awake_until) == (InstanceState.RUNNING, at(300))


def test_kept_awake_with_a_copy_that_is_older_than_its_hibernation() -> None:
    a, b = both(instance_of(person()))
    hibernate(a)
    held = instance_keep_awake(b, minutes=5, by="alice", now=T0)
    assert (held.state, held.reason_code) == (InstanceState.RUNNING, "keep_awake_asked")
    assert not Chain.objects.filter(state="active").exists()


def test_woken_twice_joins() -> None:
    a, b = both(asleep_of(person()))
    reason = because("wake_asked", by="alice")
    first = instance_wake(a, reason=reason, now=T0)
    assert instance_wake(b, reason=reason, now=T0).pk == first.pk


def test_woken_and_given_up() -> None:
    a, b = both(asleep_of(person()))
    instance_wake(a, reason=because("wake_asked", by="alice"), now=T0)
    with pytest.raises(TransitionRefused, match="its wake chain is at reserve"):
        instance_delete(b, discard=False, by="alice", now=T0)
    wake_stop(a, by="alice", now=T0)
    assert instance_delete(b, discard=False, by="alice", now=T0) is None
    assert Instance.objects.get().state == InstanceState.DELETED


def test_paused_long_enough_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    from hibernation.services import lifecycle

    monkeypatch.setattr(lifecycle, "snapshot_recheck", lambda snapshot, now: True)
    instance = asleep_of(person())
    Instance.objects.update(delete_due_at=T0)
    a, b = both(instance)
    assert instance_pause_end(a, now=at(1)) and not instance_pause_end(b, now=at(1))
    assert Event.objects.filter(code="deleted").count() == 1


def test_paused_long_enough_and_woken_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    from hibernation.services import lifecycle

    instance = asleep_of(person())
    Instance.objects.update(delete_due_at=T0)
    copy, other = both(instance)

    def meanwhile(snapshot: Snapshot, now: Any) -> bool:
        instance_wake(other, reason=because("wake_asked", by="alice"), now=T0)
        return True

    monkeypatch.setattr(lifecycle, "snapshot_recheck", meanwhile)
    assert not instance_pause_end(copy, now=at(1))
    assert Instance.objects.get().state == InstanceState.WAKING


def test_planned_twice() -> None:
    instance = asleep_of(person())
    Instance.objects.update(state=InstanceState.WAKING)
    a, b = both(instance)
    boxes.box_plan(a, OFFER, now=T0)
    with pytest.raises(TransitionRefused, match="has moved on"):
        boxes.box_plan(b, OFFER, now=T0)
    assert Box.objects.filter(state=BoxState.RENTING).count() == 1


def renting() -> Box:
    instance = asleep_of(person())
    Instance.objects.update(state=InstanceState.WAKING)
    instance.refresh_from_db()
    return boxes.box_plan(instance, OFFER, now=T0)


def test_asked_for_twice() -> None:
    a, b = both(renting())
    boxes.box_asked_for(a, now=T0)
    with pytest.raises(TransitionRefused, match="asked for already"):
        boxes.box_asked_for(b, now=T0)


def test_rented_and_refused() -> None:
    a, b = both(renting())
    boxes.box_rented(a, ref="r1", reason=because("rented", ref="r1"), now=T0)
    with pytest.raises(TransitionRefused, match="it is booting"):
        boxes.box_refused(b, reason=because("offer_gone", offer="o1"), now=T0)
    with pytest.raises(TransitionRefused):
        boxes.box_rented(b, ref="r2", reason=because("rented", ref="r2"), now=T0)
    assert Box.objects.get(pk=a.pk).provider_ref == "r1"


def test_given_up_twice() -> None:
    box = renting()
    boxes.box_asked_for(box, now=T0)
    a, b = both(box)
    for copy in (a, b):
        boxes.box_abandon(copy, reason=because("offer_gone", offer="o1"), now=T0)
        assert copy.state == BoxState.DESTROYING
    assert Event.objects.filter(subject_id=box.pk, code="box_destroying").count() == 1


def test_given_up_with_a_copy_from_before_the_hand_over() -> None:
    a, b = both(Box.objects.get(instance=instance_of(person())))
    Box.objects.update(handed_over_at=None)
    a, b = both(a)
    boxes.box_hand_over(a, now=T0)
    with pytest.raises(TransitionRefused, match="was handed over"):
        boxes.box_abandon(b, reason=because("offer_gone", offer="o1"), now=T0)
    assert Box.objects.get().state == BoxState.RUNNING


def test_handed_over_twice_keeps_the_first_moment_and_nothing_else_is_handed_over() -> None:
    instance = instance_of(person())
    Box.objects.update(handed_over_at=None)
    a, b = both(Box.objects.get(instance=instance))
    boxes.box_hand_over(a, now=T0)
    boxes.box_hand_over(b, now=at(60))
    assert Box.objects.get().handed_over_at == T0
    Box.objects.update(state=BoxState.GONE, gone_at=T0, handed_over_at=None)
    with pytest.raises(TransitionRefused, match="does not run"):
        boxes.box_hand_over(b, now=T0)


def test_let_go_twice_and_let_go_of_another_generation() -> None:
    instance = instance_of(person())
    right, wrong = snapshot_of(instance), snapshot_of(instance, generation=2)
    Snapshot.objects.filter(pk=wrong.pk).update(epoch=0)
    a, b = both(Box.objects.get(instance=instance))
    with pytest.raises(TransitionRefused, match="keeps its workspace"):
        boxes.box_let_go(a, wrong, now=T0)
    boxes.box_let_go(a, right, now=T0)
    boxes.box_let_go(a, right, now=T0)
    with pytest.raises(TransitionRefused, match="it is destroying"):
        boxes.box_let_go(b, right, now=T0)


@pytest.mark.parametrize("state", ["taking", "committed", "failed", "damaged", "deleted"])
def test_only_a_verified_generation_lets_a_box_go(state: str) -> None:
    instance = instance_of(person())
    snapshot = snapshot_of(instance)
    Snapshot.objects.update(state=state)
    with pytest.raises(TransitionRefused, match="not a verified generation"):
        boxes.box_let_go(Box.objects.get(), snapshot, now=T0)


def test_a_generation_of_another_instance_lets_no_box_go() -> None:
    mine = instance_of(person())
    other = instance_of(person("bob"), name="other")
    with pytest.raises(TransitionRefused, match="not a verified generation"):
        boxes.box_let_go(Box.objects.get(instance=mine), snapshot_of(other), now=T0)


def test_gone_twice_and_back_twice() -> None:
    a, b = both(Box.objects.get(instance=instance_of(person())))
    boxes.box_gone(a, reason=because("box_seen_gone"), now=T0)
    with pytest.raises(TransitionRefused, match="it is gone"):
        boxes.box_gone(b, reason=because("box_seen_gone"), now=T0)
    facts = BoxFacts(ref="ref-1", label=a.label, phase=Phase.RUNNING)
    with pytest.raises(TransitionRefused, match="holds work that no generation holds"):
        boxes.box_turned_up(a, facts, now=T0)
    a, b = both(a)
    reason = because("box_found_again", box="ref-1")
    boxes.box_back(a, BoxState.RUNNING, reason=reason, now=T0)
    with pytest.raises(TransitionRefused):
        boxes.box_back(b, BoxState.STRANDED, reason=reason, now=T0)


def test_a_generation_let_go_twice_and_let_go_while_it_begins_to_be_used() -> None:
    instance = instance_of(person())
    snapshot = snapshot_of(instance)
    a, b = both(snapshot)
    boxes.box_let_go(Box.objects.get(), snapshot, now=T0)
    with pytest.raises(DomainError, match="is being destroyed on its strength"):
        snapshot_delete(a, by="alice", now=T0)
    Box.objects.update(state=BoxState.GONE, gone_at=T0)
    Instance.objects.update(state=InstanceState.DELETED)
    snapshot_delete(a, by="alice", now=T0)
    with pytest.raises(DomainError, match="there is nothing to let go"):
        snapshot_delete(b, by="alice", now=T0)


def test_an_abandoned_box_of_an_older_epoch_leaves_the_agent_of_the_newer_alone() -> None:
    instance = instance_of(person(), epoch=2)
    old = box_of(instance, epoch=1, state=BoxState.GONE)
    Box.objects.filter(pk=old.pk).update(handed_over_at=None)
    old.refresh_from_db()
    boxes.box_abandon(old, reason=because("offer_gone", offer="o1"), now=T0)
    instance.refresh_from_db()
    assert instance.worker is not None and instance.worker.state == "online"
