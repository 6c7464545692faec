"""Generations as their owner sees them: listed, looked into, a file fetched, let go. Nobody else's exist."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapshots.engine.store.base import StoreBusy
from snapshots.engine.store.folder import FolderStore
from snapshots.models import Snapshot
from snapshots.services import verifying
from tests.snapshots.rows import begun, person, taken

pytestmark = pytest.mark.usefixtures("db", "valkey")


@pytest.fixture
def alice() -> Any:
    return person()


@pytest.fixture
def snapshot(alice: Any, store_folder: Path, workspace: Path) -> Snapshot:
    (workspace / "ugly\udcff").write_bytes(b"x")
    row = taken(begun(alice), workspace)
    verifying.snapshot_verify(row)
    return row


@pytest.fixture
def api(api_client: Callable[..., Any], alice: Any) -> Any:
    return api_client(alice)


def test_a_list_of_ones_own_by_workspace_and_state(api: Any, snapshot: Snapshot, alice: Any) -> None:
    begun(alice, instance="i_other", key="c_9:0")
    rows = api.get("/api/snapshots").json()["results"]
    assert {row["workspace"] for row in rows} == {"i_studio", "i_other"}
    (row,) = api.get("/api/snapshots?workspace_ref=i_studio&state=verified").json()["results"]
    assert (row["id"], row["generation"], row["status"], row["files"]) == (snapshot.pk, 1, "verified", 3)
    assert "read back" in row["reason"]
    assert "key" not in str(sorted(row)), "no key of the store, no owner's key"


def test_what_it_holds_by_path_page_by_page(api: Any, snapshot: Snapshot) -> None:
    every = api.get(f"/api/snapshots/{snapshot.pk}/files").json()
    assert [row["path"] for row in every] == [
        "big.bin", "deep", "deep/er", "deep/er/notes.txt", "latest", "ugly\\xff",
    ]  # fmt: skip
    assert (every[0]["kind"], every[0]["size"], every[1]["kind"]) == ("file", 2**21, "folder")
    page = api.get(f"/api/snapshots/{snapshot.pk}/files?limit=2&after=deep").json()
    assert [row["path"] for row in page] == ["deep/er", "deep/er/notes.txt"]
    below = api.get(f"/api/snapshots/{snapshot.pk}/files?prefix=deep/er").json()
    assert [row["path"] for row in below] == ["deep/er/notes.txt"]
    assert api.get(f"/api/snapshots/{snapshot.pk}/files?limit=none").status_code == 200


def test_one_file_without_a_gpu(api: Any, snapshot: Snapshot, workspace: Path) -> None:
    answer = api.get(f"/api/snapshots/{snapshot.pk}/files/big.bin")
    data = b"".join(answer.streaming_content)
    assert hashlib.sha256(data).digest() == hashlib.sha256((workspace / "big.bin").read_bytes()).digest()
    assert answer["Content-Length"] == str(len(data))
    assert "attachment" in answer["Content-Disposition"] and answer["X-Content-Type-Options"] == "nosniff"
    odd = api.get(f"/api/snapshots/{snapshot.pk}/files/ugly%5Cxff")
    assert b"".join(odd.streaming_content) == b"x"
    missing = api.get(f"/api/snapshots/{snapshot.pk}/files/nothing.txt")
    assert missing.status_code == 404 and "has no file nothing.txt" in missing.json()["message"]


@pytest.mark.parametrize("what", ["", "/files", "/files/big.bin"])
def test_somebody_elses_do_not_exist(api_client: Callable[..., Any], snapshot: Snapshot, what: str) -> None:
    bob = api_client(person("bob"))
    assert bob.get(f"/api/snapshots/{snapshot.pk}{what}").status_code == 404
    assert bob.delete(f"/api/snapshots/{snapshot.pk}").status_code == 404
    assert bob.get("/api/snapshots").json()["results"] == []
    assert api_client().get(f"/api/snapshots/{snapshot.pk}{what}").status_code == 401


def test_a_store_that_is_away_is_said_with_a_retry_after(
    api: Any, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(self: FolderStore, key: str, **_: Any) -> bytes:
        raise StoreBusy("away", retry_after_s=9)

    monkeypatch.setattr(FolderStore, "read", busy)
    for what in ("/files", "/files/big.bin"):
        answer = api.get(f"/api/snapshots/{snapshot.pk}{what}")
        assert (answer.status_code, answer["Retry-After"]) == (503, "9")


def test_one_without_anything_in_it_says_so(api: Any, alice: Any, store_folder: Path) -> None:
    row = begun(alice)
    answer = api.get(f"/api/snapshots/{row.pk}/files")
    assert (answer.status_code, answer.json()["code"]) == (409, "snapshot_not_readable")


def test_one_that_the_store_has_lost_says_so(api: Any, snapshot: Snapshot, store_folder: Path) -> None:
    for root in store_folder.glob("o/*/m/*"):
        root.unlink()
    answer = api.get(f"/api/snapshots/{snapshot.pk}/files")
    assert (answer.status_code, answer.json()["code"]) == (409, "snapshot_damaged")


def test_it_is_let_go_by_its_owner(
    api: Any, api_client: Callable[..., Any], snapshot: Snapshot, alice: Any
) -> None:
    assert api_client(alice, "read").delete(f"/api/snapshots/{snapshot.pk}").status_code == 403
    assert api.delete(f"/api/snapshots/{snapshot.pk}").status_code == 204
    snapshot.refresh_from_db()
    assert (snapshot.state, snapshot.reason) == ("deleted", "let go by alice")
    again = api.delete(f"/api/snapshots/{snapshot.pk}")
    assert (again.status_code, again.json()["code"]) == (409, "snapshot_not_kept")
