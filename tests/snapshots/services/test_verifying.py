"""Seen with our own eyes, or not at all: what lets a box go, and what is told when a generation is no longer whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import Busy, DomainError
from core.models import Event
from snapshots.engine.store.base import StoreBusy, StoreRefused
from snapshots.engine.store.folder import FolderStore
from snapshots.models import Pack, Snapshot
from snapshots.services import taking, verifying
from snapshots.services.deleting import _in_use, register_use, snapshot_delete
from snapshots.states import SnapshotState
from tests.snapshots.rows import T0, at, begun, committed, person, taken

pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture
def snapshot(store_folder: Path, workspace: Path) -> Snapshot:
    return taken(begun(person()), workspace)


def packs(folder: Path) -> list[Path]:
    return sorted(folder.glob("o/*/p/*"))


def test_a_whole_one_is_verified_once(snapshot: Snapshot) -> None:
    assert verifying.snapshot_verify(snapshot, share=1, now=T0)
    assert (snapshot.state, snapshot.verified_at, snapshot.checked_at) == (SnapshotState.VERIFIED, T0, T0)
    assert verifying.snapshot_verify(snapshot, now=at(60)) and snapshot.verified_at == T0
    assert "read back" in snapshot.reason
    assert set(Pack.objects.values_list("verified_at", flat=True)) == {T0}


def test_one_that_is_still_being_taken_or_has_failed_is_not(store_folder: Path) -> None:
    row = begun(person())
    assert not verifying.snapshot_verify(row, now=T0)
    taking.snapshot_fail(row, error="no", now=T0)
    assert not verifying.snapshot_verify(row, now=T0)
    assert row.state == SnapshotState.FAILED


@pytest.mark.parametrize("harm", ["missing", "short", "other bytes", "no root"])
def test_one_that_is_not_whole_has_failed_and_says_where(
    snapshot: Snapshot, store_folder: Path, harm: str
) -> None:
    pack = packs(store_folder)[0]
    data = pack.read_bytes()
    if harm == "no root":
        pack = next(store_folder.glob("o/*/m/*"))
    pack.unlink()
    if harm == "short":
        pack.write_bytes(data[:-1])
    elif harm == "other bytes":
        pack.write_bytes(bytes(len(data)))
    assert not verifying.snapshot_verify(snapshot, share=1, now=T0)
    assert snapshot.state == SnapshotState.FAILED
    assert "problems, the first: o/" in snapshot.reason


def test_a_manifest_that_is_not_what_was_committed_is_refused(snapshot: Snapshot) -> None:
    Snapshot.objects.update(content_id="d" * 64)
    snapshot.refresh_from_db()
    assert not verifying.snapshot_verify(snapshot, now=T0)
    assert "not the one that the agent committed" in snapshot.reason


def test_a_commit_of_something_that_was_never_uploaded_is_not_verified(store_folder: Path) -> None:
    row = committed(begun(person()))
    assert not verifying.snapshot_verify(row, now=T0)
    assert "is missing" in row.reason


@pytest.mark.parametrize("error", [StoreBusy("slow down", retry_after_s=7), StoreRefused("no rights")])
def test_a_store_that_cannot_be_asked_is_no_verdict(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(self: FolderStore, key: str) -> object:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "head", fails)
        with pytest.raises(Busy) as told:
            verifying.snapshot_verify(snapshot, now=T0)
    assert told.value.retry_after_s in (7, 60)
    assert snapshot.state == SnapshotState.COMMITTED
    assert verifying.snapshot_verify(snapshot, now=T0)


def test_a_check_that_nobody_waits_for_any_more_ends_without_a_verdict(snapshot: Snapshot) -> None:
    with pytest.raises(Busy, match="was stopped"):
        verifying.snapshot_verify(snapshot, now=T0, cancelled=lambda: True)
    assert snapshot.state == SnapshotState.COMMITTED


def test_a_later_check_marks_damage_and_takes_it_back_when_it_is_whole_again(
    snapshot: Snapshot, store_folder: Path
) -> None:
    verifying.snapshot_verify(snapshot, now=T0)
    pack = packs(store_folder)[0]
    data = pack.read_bytes()
    pack.unlink()
    assert not verifying.snapshot_recheck(snapshot, now=at(60))
    assert (snapshot.state, snapshot.checked_at) == (SnapshotState.DAMAGED, at(60))
    assert not verifying.snapshot_recheck(snapshot, now=at(120))
    pack.write_bytes(data)
    assert verifying.snapshot_recheck(snapshot, now=at(180))
    assert (snapshot.state, snapshot.verified_at, snapshot.checked_at) == (
        SnapshotState.VERIFIED, T0, at(180),
    )  # fmt: skip
    assert verifying.snapshot_recheck(snapshot, now=at(240))
    assert Event.objects.filter(code="snapshot_verified").count() == 2


# -- let go -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def verified(snapshot: Snapshot) -> Snapshot:
    verifying.snapshot_verify(snapshot, now=T0)
    return snapshot


def test_one_that_is_pinned_or_in_use_is_kept(verified: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    Snapshot.objects.update(pinned=True)
    with pytest.raises(DomainError) as refused:
        snapshot_delete(verified, by="alice", now=T0)
    assert refused.value.code == "snapshot_pinned"
    Snapshot.objects.update(pinned=False)
    monkeypatch.setattr("snapshots.services.deleting._in_use", [*_in_use])
    register_use(lambda row: "studio sleeps on it")
    with pytest.raises(DomainError, match="studio sleeps on it") as refused:
        snapshot_delete(verified, by="alice", now=T0)
    assert refused.value.code == "snapshot_in_use"
    assert Snapshot.objects.get().state == SnapshotState.VERIFIED


def test_one_that_nobody_needs_is_let_go_once_and_says_by_whom(verified: Snapshot) -> None:
    snapshot_delete(verified, by="alice", now=T0)
    assert (verified.state, verified.reason) == (SnapshotState.DELETED, "let go by alice")
    with pytest.raises(DomainError) as refused:
        snapshot_delete(verified, by="alice", now=T0)
    assert refused.value.code == "snapshot_not_kept"


@pytest.mark.parametrize("state", ["taking", "committed", "failed"])
def test_one_that_is_no_generation_cannot_be_let_go(verified: Snapshot, state: str) -> None:
    Snapshot.objects.update(state=state)
    with pytest.raises(DomainError, match="nothing to let go"):
        snapshot_delete(verified, by="alice", now=T0)
