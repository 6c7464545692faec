"""What the database itself refuses, whatever writes to it: each promise, broken by a plain UPDATE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from core.chain_states import ChainState
from core.models import Chain
from hibernation.models import Box, Instance
from hibernation.states import BoxState, InstanceState
from snapshots.models import Snapshot
from snapshots.states import SnapshotState
from tests.hibernation.rows import asleep_of, box_of, instance_of, person, snapshot_of

pytestmark = pytest.mark.django_db


def refused(name: str, write: Callable[[], Any]) -> None:
    with pytest.raises(IntegrityError) as error, transaction.atomic():
        write()
    if "UNIQUE" not in str(error.value):  # SQLite names the columns there
        assert name in str(error.value)


def sql(text: str, *values: Any) -> Callable[[], Any]:
    def run() -> None:
        with connection.cursor() as cursor:
            cursor.execute(text, values)

    return run


def test_a_box_that_was_handed_over_is_not_destroyed_without_a_generation() -> None:
    instance = instance_of(person())
    box = Box.objects.get(instance=instance)
    destroy = "UPDATE hibernation_box SET state = %s WHERE id = %s"
    refused("box_destroyed_only_with", sql(destroy, BoxState.DESTROYING, box.pk))


def test_nor_with_a_generation_of_another_epoch() -> None:
    instance = instance_of(person(), epoch=4)
    snapshot = snapshot_of(instance)
    box = Box.objects.get(instance=instance)
    destroy = "UPDATE hibernation_box SET state = %s, safe_snapshot_id = %s, safe_epoch = %s WHERE id = %s"
    for epoch in (3, 5, None):
        refused("box_destroyed_only_with", sql(destroy, BoxState.DESTROYING, snapshot.pk, epoch, box.pk))
    sql(destroy, BoxState.DESTROYING, snapshot.pk, 4, box.pk)()
    box.refresh_from_db()
    assert box.state == BoxState.DESTROYING


def test_a_box_that_goes_does_not_lose_the_reason_why_it_may() -> None:
    instance = instance_of(person())
    snapshot = snapshot_of(instance)
    Box.objects.update(state=BoxState.DESTROYING, safe_snapshot=snapshot, safe_epoch=1)
    refused("box_destroyed_only_with", lambda: Box.objects.update(safe_snapshot=None))
    refused("box_destroyed_only_with", lambda: Box.objects.update(epoch=2))


def test_an_instance_has_one_live_box() -> None:
    instance = instance_of(person())
    refused("box_one_live", lambda: box_of(instance, epoch=2, state=BoxState.RENTING))
    box_of(instance, epoch=3, state=BoxState.GONE)
    refused("box_one_live", lambda: Box.objects.filter(epoch=3).update(state="booting", gone_at=None))


def test_an_epoch_has_one_box_and_a_label_is_used_once() -> None:
    instance = instance_of(person())
    refused("box_one_per_epoch", lambda: box_of(instance, epoch=1, label="another", state=BoxState.GONE))
    other = box_of(instance, epoch=2, state=BoxState.GONE)
    first = Box.objects.get(epoch=1)
    refused("label", lambda: Box.objects.filter(pk=other.pk).update(label=first.label))


def test_a_box_is_billed_until_it_is_gone() -> None:
    instance_of(person())
    refused("box_billed_until", lambda: Box.objects.update(state=BoxState.GONE))
    refused("box_billed_until", lambda: Box.objects.update(gone_at=timezone.now()))


def test_a_box_that_was_rented_is_never_called_refused() -> None:
    instance_of(person())
    refused("box_that_was_rented", lambda: Box.objects.update(state=BoxState.REFUSED))


def test_a_hibernated_instance_has_a_snapshot() -> None:
    instance = asleep_of(person())
    refused("instance_hibernated_has", lambda: Instance.objects.update(snapshot=None))
    Instance.objects.update(state=InstanceState.DELETED)
    instance.refresh_from_db()


def test_nothing_is_snapshotted_while_its_restore_is_incomplete() -> None:
    instance_of(person())
    Instance.objects.update(restore_incomplete=True)
    refused("instance_snapshotted_only", lambda: Instance.objects.update(state=InstanceState.HIBERNATING))


def test_a_verified_generation_is_complete_and_numbers_are_used_once() -> None:
    instance = instance_of(person())
    snapshot = snapshot_of(instance)
    for missing in ({"verified_at": None}, {"root_sha256": ""}, {"content_id": ""}):
        refused("snapshot_verified_is_complete", lambda missing=missing: Snapshot.objects.update(**missing))
    second = snapshot_of(instance, generation=2)
    refused("snapshot_generation", lambda: Snapshot.objects.filter(pk=second.pk).update(generation=1))
    refused("key", lambda: Snapshot.objects.filter(pk=second.pk).update(key=snapshot.key))
    assert Snapshot.objects.filter(state=SnapshotState.VERIFIED).count() == 2


def test_a_generation_that_something_stands_on_cannot_be_removed_from_the_database() -> None:
    from django.db.models import ProtectedError

    instance = asleep_of(person())
    with pytest.raises(ProtectedError):
        Snapshot.objects.get(pk=instance.snapshot_id).delete()


def test_a_subject_has_one_active_chain_and_that_is_always_due_some_time() -> None:
    common = {"subject_type": "instance", "subject_id": "i_1", "step": "drain", "kind": "hibernate"}
    chain = Chain.objects.create(state=ChainState.ACTIVE, next_at=timezone.now(), **common)
    refused(
        "chain_one_active", lambda: Chain.objects.create(state="active", next_at=timezone.now(), **common)
    )
    refused("chain_active_is_always", lambda: Chain.objects.filter(pk=chain.pk).update(next_at=None))
    refused("chain_active_is_always", lambda: Chain.objects.filter(pk=chain.pk).update(state="failed"))
