"""Looking into a snapshot: names and single files, without restoring it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snapshots.engine.errors import DataDamaged, EntryMissing
from snapshots.engine.reader import find_file, iter_entries, read_file
from snapshots.engine.store.base import Store
from tests.snapshots.engine.remotes import Watched
from tests.snapshots.engine.trees import manifest_of, noise, odd_tree, put, take_of


def test_every_file_reads_as_it_was(store: Store, workspace: Path) -> None:
    odd_tree(workspace)
    take_of(workspace, store)
    manifest = manifest_of(store)
    files = 0
    for folder, _, names in os.walk(os.fsencode(workspace)):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    assert (
                        b"".join(read_file(manifest, os.path.relpath(path, os.fsencode(workspace))))
                        == file.read()
                    )
                files += 1
    assert files > 25


@pytest.mark.slow
def test_reading_a_large_file_holds_little_and_fetches_only_that_file(store: Store, workspace: Path) -> None:
    put(workspace / "large", noise(40 << 20))
    put(workspace / "other", noise(40 << 20, 2))
    take_of(workspace, store)
    remote = Watched(store)
    pieces = read_file(manifest_of(remote), b"large")
    next(pieces)
    assert sum(length for key, _, length in remote.got if "/p/" in key) < 10 << 20
    assert sum(len(piece) for piece in pieces) == 39 << 20
    assert sum(length for key, _, length in remote.got if "/p/" in key) < 41 << 20


@pytest.mark.slow
def test_finding_one_file_reads_one_segment_of_many(store: Store, workspace: Path) -> None:
    for folder in range(20):
        (workspace / f"{folder}").mkdir()
        for number in range(1_000):
            (workspace / f"{folder}/{number}").touch()
    put(workspace / "5/500", b"here")
    take_of(workspace, store)
    remote = Watched(store)
    manifest = manifest_of(remote)
    assert len(manifest.root.entries) > 1
    assert find_file(manifest, b"5/500").size == 4
    assert len([key for key, _, _ in remote.got if "/s/" in key]) == 1


def test_what_is_no_file_of_the_snapshot_is_missing(store: Store, workspace: Path) -> None:
    put(workspace / "folder/file", b"x")
    os.symlink("folder/file", workspace / "link")
    take_of(workspace, store)
    manifest = manifest_of(store)
    for path in (
        b"",
        b"absent",
        b"folder",
        b"link",
        b"../folder/file",
        b"zzz",
        b"folder/file/x",
        b"/folder/file",
    ):
        with pytest.raises(EntryMissing):
            read_file(manifest, path)


def test_entries_can_be_listed_below_a_folder(store: Store, workspace: Path) -> None:
    for name in ("a/b", "a/c/d", "ab", "b"):
        put(workspace / name)
    take_of(workspace, store)
    manifest = manifest_of(store)
    assert [entry.path for entry in iter_entries(manifest)] == [b"a", b"a/b", b"a/c", b"a/c/d", b"ab", b"b"]
    assert [entry.path for entry in iter_entries(manifest, below=b"a")] == [b"a/b", b"a/c", b"a/c/d"]
    assert [entry.path for entry in iter_entries(manifest, below=b"a/c/")] == [b"a/c/d"]


def test_damaged_bytes_are_not_handed_out(store: Store, workspace: Path) -> None:
    put(workspace / "file", noise(50_000))
    take_of(workspace, store)
    lying = Watched(store, on_get=lambda key, at, data: data[::-1] if "/p/" in key else data)
    with pytest.raises(DataDamaged):
        list(read_file(manifest_of(lying), b"file"))
