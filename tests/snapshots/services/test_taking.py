"""From "take a snapshot" to "everything is uploaded": numbered once, planned for its owner alone, committed once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from agent import wire
from core.errors import Invalid, NotFound, StandDown
from core.models import Event
from snapshots.engine.keys import root_key
from snapshots.models import OwnerKey, Pack, RestoreGrant, Snapshot
from snapshots.services import taking, verifying
from snapshots.services.owners import owner_key
from snapshots.services.taking import AlreadyCommitted, RootPlanned
from snapshots.states import SnapshotState
from tests.snapshots.rows import (
    EPOCH,
    T0,
    WORKER,
    at,
    begun,
    committed,
    facts,
    identity,
    person,
    root_wish,
    taken,
    wish,
)

pytestmark = pytest.mark.usefixtures("db", "store_folder")


# -- begun --------------------------------------------------------------------------------------------------------------


def test_asking_again_with_the_same_key_finds_the_first() -> None:
    alice = person()
    first = begun(alice)
    assert begun(alice).pk == first.pk
    assert (first.generation, first.state) == (1, SnapshotState.TAKING)
    assert first.root_key == root_key(OwnerKey.objects.get().storage_id, first.pk)
    assert begun(alice, key="c_1:1").generation == 2
    assert begun(alice, instance="i_other", key="c_2:0").generation == 1
    assert Event.objects.filter(code="snapshot_begun").count() == 3


def test_a_generation_builds_on_the_newest_verified_one(workspace: Path) -> None:
    alice = person()
    assert begun(alice).parent is None
    first = taken(begun(alice), workspace)
    assert begun(alice, key="k2").parent is None, "committed is not verified"
    assert verifying.snapshot_verify(first, now=T0)
    second = begun(alice, key="k3")
    assert second.parent == first
    assert taking.snapshot_terms(second).parent_root_key == first.root_key
    Snapshot.objects.filter(pk=first.pk).update(state=SnapshotState.DAMAGED)
    again = taking.snapshot_for_agent(second.pk, identity())
    assert taking.snapshot_terms(again).parent_root_key is None, "what is damaged is not built on"


@pytest.mark.django_db(transaction=True)
def test_generations_that_begin_at_once_are_counted_without_gap_or_double() -> None:
    alice = person()
    owner_key(alice)
    start = threading.Barrier(8)

    def begin(number: int) -> list[int]:
        start.wait()
        try:
            return [begun(alice, key=f"c_{number}:{turn}").generation for turn in range(5)]
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        numbers = sorted(chain.from_iterable(pool.map(begin, range(8))))
    assert numbers == list(range(1, 41))


@pytest.mark.django_db(transaction=True)
def test_the_same_snapshot_begun_at_once_is_one() -> None:
    alice = person()
    start = threading.Barrier(8)

    def begin(_: int) -> str:
        start.wait()
        try:
            return begun(alice).pk
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(begin, range(8)))) == 1
    assert (Snapshot.objects.count(), OwnerKey.objects.count()) == (1, 1)


# -- planned -------------------------------------------------------------------------------------------------------------------


def test_a_plan_signs_what_was_asked_for_in_its_order_and_writes_it_down() -> None:
    snapshot = begun(person())
    wishes = [wish(snapshot, number=number) for number in (3, 1, 2)]
    puts, _ = taking.snapshot_plan(snapshot, put=wishes, get=[], now=T0)
    _, gets = taking.snapshot_plan(snapshot, put=[], get=[wishes[1].key], now=T0)
    assert [one.key in two.url for one, two in zip(wishes, puts, strict=True)] == [True] * 3
    assert [one.method for one in (*puts, *gets)] == ["PUT"] * 3 + ["GET"]
    assert set(Pack.objects.values_list("key", "length", "sha256", "snapshot")) == {
        (one.key, one.length, one.sha256, snapshot.pk) for one in wishes
    }
    taking.snapshot_plan(snapshot, put=wishes, get=[], now=at(5))
    assert Pack.objects.count() == 3, "asked again, because the answer was lost"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"key": "o/o_somebody/p/" + "0" * 32}, "belongs to another owner"),
        ({"key": "../../etc/passwd"}, "not the key of a snapshot's object"),
        ({"key": "o/x/p/zz"}, "not the key of a snapshot's object"),
        ({"length": 0}, "0 bytes"),
        ({"length": 2**40}, "bytes"),
        ({"sha256": "Z" * 64}, "not SHA-256"),
        ({"sha256": "ab"}, "not SHA-256"),
    ],
)
def test_what_is_no_upload_of_this_snapshot_is_refused_whole(change: dict[str, Any], says: str) -> None:
    snapshot = begun(person())
    good, bad = wish(snapshot), wish(snapshot, number=2)
    with pytest.raises(Invalid, match=says):
        taking.snapshot_plan(snapshot, put=[good, wire.PutWish(**{**vars(bad), **change})], get=[], now=T0)
    assert not Pack.objects.exists()


def test_the_root_of_another_snapshot_is_not_uploaded() -> None:
    alice = person()
    mine, other = begun(alice), begun(alice, key="c_2:0")
    with pytest.raises(Invalid, match="the root of another snapshot"):
        taking.snapshot_plan(mine, put=[wish(mine, key=other.root_key)], get=[], now=T0)


def test_an_object_is_written_once() -> None:
    snapshot = begun(person())
    taking.snapshot_plan(snapshot, put=[wish(snapshot)], get=[], now=T0)
    with pytest.raises(Invalid, match="another length or hash"):
        taking.snapshot_plan(snapshot, put=[wish(snapshot, length=11)], get=[], now=T0)
    first, second = wish(snapshot, number=7), wish(snapshot, number=7, length=99)
    with pytest.raises(Invalid, match="another length or hash"):
        taking.snapshot_plan(snapshot, put=[first, second], get=[], now=T0)


def test_another_workspace_of_the_same_owner_is_not_read() -> None:
    """The machine is a stranger's: it sees the workspace that it holds, and no other one of this person."""
    alice = person()
    mine, other = begun(alice), begun(alice, instance="i_secret", worker="w_secret", key="c_2:0")
    secret = wish(other)
    taking.snapshot_plan(other, put=[secret, root_wish(other)], get=[], now=T0)
    for key in (secret.key, other.root_key):
        with pytest.raises(Invalid, match="no object of this workspace"):
            taking.snapshot_plan(mine, put=[], get=[key], now=T0)
    ours = wish(mine, number=5)
    taking.snapshot_plan(mine, put=[ours], get=[], now=T0)
    later = begun(alice, key="c_1:1")
    assert len(taking.snapshot_plan(later, put=[], get=[ours.key], now=T0)[1]) == 1


def test_a_plan_has_its_limit() -> None:
    snapshot = begun(person())
    many = [wish(snapshot, number=number) for number in range(wire.REQUESTS_PER_PLAN + 1)]
    with pytest.raises(Invalid, match="at most"):
        taking.snapshot_plan(snapshot, put=many, get=[], now=T0)
    assert len(taking.snapshot_plan(snapshot, put=many[:-1], get=[], now=T0)[0]) == wire.REQUESTS_PER_PLAN


# -- whose ------------------------------------------------------------------------------------------------------------------------


def test_only_the_worker_that_takes_it_in_its_epoch_sees_it_and_gets_the_key() -> None:
    snapshot = begun(person())
    mine = taking.snapshot_for_agent(snapshot.pk, identity())
    assert taking.snapshot_terms(mine).owner_key == OwnerKey.objects.get().key
    with pytest.raises(NotFound):
        taking.snapshot_for_agent(snapshot.pk, identity(worker="w_other"))
    with pytest.raises(NotFound):
        taking.snapshot_for_agent("sn_nothing", identity())
    for epoch in (EPOCH - 1, EPOCH + 1):
        with pytest.raises(StandDown):
            taking.snapshot_for_agent(snapshot.pk, identity(epoch=epoch))


@pytest.mark.parametrize("state", ["failed", "deleted", "damaged"])
def test_one_that_is_no_longer_taken_is_answered_with_stand_down(state: str) -> None:
    snapshot = begun(person())
    Snapshot.objects.update(state=state)
    with pytest.raises(StandDown):
        taking.snapshot_for_agent(snapshot.pk, identity())
    with pytest.raises(StandDown):
        taking.snapshot_commit(snapshot.pk, identity(), facts=facts(snapshot), now=T0)


def test_each_owner_has_a_key_of_their_own_that_is_not_stored_in_the_clear() -> None:
    alice, bob = owner_key(person()), owner_key(person("bob"))
    assert alice.key != bob.key and alice.storage_id != bob.storage_id
    with connection.cursor() as cursor:
        cursor.execute("SELECT key FROM snapshots_ownerkey")
        stored = [row[0] for row in cursor.fetchall()]
    assert all(key not in text for key in (alice.key, bob.key) for text in stored)


def test_a_restore_is_allowed_to_one_worker_in_one_epoch_until_it_is_over() -> None:
    snapshot = committed(begun(person()))
    with pytest.raises(NotFound):
        taking.snapshot_to_restore(snapshot.pk, identity("w_new", 4))
    for _ in range(2):
        taking.restore_allow(snapshot, worker_ref="w_new", worker_epoch=4)
    assert RestoreGrant.objects.count() == 1
    assert taking.snapshot_to_restore(snapshot.pk, identity("w_new", 4)) == snapshot
    for other in (identity("w_new", 3), identity("w_new", 5), identity("w_old", 4)):
        with pytest.raises(NotFound):
            taking.snapshot_to_restore(snapshot.pk, other)
    taking.restore_forbid(worker_ref="w_new")
    with pytest.raises(NotFound):
        taking.snapshot_to_restore(snapshot.pk, identity("w_new", 4))


# -- committed ---------------------------------------------------------------------------------------------------------------------


def test_a_commit_counts_once_and_is_accepted_again() -> None:
    snapshot = committed(begun(person()))
    assert (snapshot.state, snapshot.files, snapshot.committed_at) == (SnapshotState.COMMITTED, 2, T0)
    again = taking.snapshot_commit(snapshot.pk, identity(), facts=facts(snapshot), now=at(60))
    assert again.committed_at == T0
    assert Event.objects.filter(code="snapshot_committed").count() == 1
    with pytest.raises(AlreadyCommitted) as told:
        taking.snapshot_for_agent(snapshot.pk, identity())
    assert (told.value.code, told.value.status) == (wire.COMMITTED, 409)


def test_another_root_than_the_committed_one_is_refused() -> None:
    snapshot = committed(begun(person()))
    with pytest.raises(AlreadyCommitted):
        taking.snapshot_commit(snapshot.pk, identity(), facts=facts(snapshot, root_sha256="e" * 64), now=T0)


def test_nobody_else_commits_it_and_no_older_epoch() -> None:
    snapshot = begun(person())
    taking.snapshot_plan(snapshot, put=[root_wish(snapshot)], get=[], now=T0)
    with pytest.raises(NotFound):
        taking.snapshot_commit(snapshot.pk, identity("w_other"), facts=facts(snapshot), now=T0)
    with pytest.raises(StandDown):
        taking.snapshot_commit(snapshot.pk, identity(WORKER, EPOCH - 1), facts=facts(snapshot), now=T0)
    snapshot.refresh_from_db()
    assert snapshot.state == SnapshotState.TAKING


@pytest.mark.parametrize(
    "wrong", [{"root_key": "o/x/m/other"}, {"root_sha256": "e" * 64}, {"root_length": 101}]
)
def test_a_root_that_was_never_planned_is_not_committed(wrong: dict[str, Any]) -> None:
    snapshot = begun(person())
    taking.snapshot_plan(snapshot, put=[root_wish(snapshot)], get=[], now=T0)
    with pytest.raises(Invalid):
        taking.snapshot_commit(snapshot.pk, identity(), facts=facts(snapshot, **wrong), now=T0)


def test_what_a_box_says_is_made_storable() -> None:
    snapshot = begun(person())
    taking.snapshot_plan(snapshot, put=[root_wish(snapshot)], get=[], now=T0)
    said = facts(snapshot, warnings=["a socket\x00 named \udcff"])
    assert taking.snapshot_commit(snapshot.pk, identity(), facts=said, now=T0).warnings == [
        "a socket named ?"
    ]


def test_what_is_failed_stays_failed_and_what_is_verified_stays_verified() -> None:
    alice = person()
    snapshot = begun(alice)
    taking.snapshot_fail(snapshot, error="the disk was full", now=T0)
    assert "the disk was full" in snapshot.reason
    taking.snapshot_fail(snapshot, error="again", now=T0)
    assert "the disk was full" in Snapshot.objects.get().reason
    Snapshot.objects.filter(pk=snapshot.pk).update(
        state="verified", verified_at=T0, root_sha256="a" * 64, content_id="c"
    )
    snapshot.refresh_from_db()
    taking.snapshot_fail(snapshot, error="too late", now=T0)
    assert Snapshot.objects.get().state == SnapshotState.VERIFIED


def test_one_whose_root_was_planned_by_an_earlier_run_is_not_begun_again() -> None:
    snapshot = begun(person())
    taking.snapshot_start(snapshot)
    taking.snapshot_plan(snapshot, put=[wish(snapshot)], get=[], now=T0)
    taking.snapshot_start(snapshot)
    taking.snapshot_plan(snapshot, put=[root_wish(snapshot)], get=[], now=T0)
    with pytest.raises(RootPlanned) as told:
        taking.snapshot_start(snapshot)
    assert told.value.code == wire.ROOT_PLANNED
