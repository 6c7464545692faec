"""What did not change is not read again; whatever could have changed is."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snapshots.engine import reading, statindex
from snapshots.engine.compare import compare
from snapshots.engine.keys import OwnerKey
from snapshots.engine.store.base import Store
from snapshots.engine.take import Taken
from snapshots.engine.writeback import mapped_writes_show, written_back_within_ns
from tests.snapshots.engine.trees import (
    KEY,
    manifest_of,
    noise,
    odd_tree,
    put,
    restore_of,
    take_of,
    verify_of,
)

HOUR_NS = 3_600 * 10**9


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "stat-index"


@pytest.fixture
def was_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the files that are read."""
    found: list[str] = []
    real = reading._read

    def read(fd: int, offset: int, length: int) -> bytes:
        found.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        return real(fd, offset, length)

    monkeypatch.setattr(reading, "_read", read)
    yield found


def later(ns: int = HOUR_NS) -> Any:
    """A clock for which all that was done just now is long ago."""
    return lambda: time.time_ns() + ns


def again(store: Store, workspace: Path, index: Path, before: Taken, name: str, **options: Any) -> Taken:
    parent = manifest_of(store, before.root_key)
    options = {"clock_ns": later(), **options}
    return take_of(workspace, store, name, parent=parent, stat_index=index, **options)


@pytest.fixture
def taken(store: Store, workspace: Path, index: Path) -> Taken:
    odd_tree(workspace)
    return take_of(workspace, store, stat_index=index, clock_ns=later())


def test_nothing_is_read_and_nothing_stored_where_nothing_changed(
    store: Store, workspace: Path, target: Path, index: Path, taken: Taken, was_read: list[str]
) -> None:
    second = again(store, workspace, index, taken, "s_2")
    assert was_read == []
    assert second.content_id == taken.content_id
    assert [plan.key for plan in second.new_objects] == [second.root_key]
    verify_of(store, second)
    restore_of(target, store, second.root_key)
    assert compare(workspace, target) == []


def test_the_very_same_snapshot_is_taken_with_and_without_an_index(
    store: Store, workspace: Path, index: Path, taken: Taken
) -> None:
    put(workspace / "new", b"x")
    os.chmod(workspace / "plain.txt", 0o600)
    with_index = again(store, workspace, index, taken, "s_2")
    without = take_of(workspace, store, "s_3", parent=manifest_of(store))
    assert with_index.content_id == without.content_id


def change_bytes(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"HELLO\n" * 100)
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))


CHANGES: dict[str, Any] = {
    "bytes, with the old size and time": change_bytes,
    "mode": lambda path: os.chmod(path, 0o600),
    "time": lambda path: os.utime(path, ns=(5, 5)),
    "owner": lambda path: os.chown(path, 1, 1) if os.geteuid() == 0 else os.chmod(path, 0o640),
    "replaced": lambda path: (put(path.with_name("t"), path.read_bytes()), path.with_name("t").rename(path)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_any_change_of_a_file_is_in_the_next_snapshot(
    store: Store, workspace: Path, target: Path, index: Path, taken: Taken, was_read: list[str], what: str
) -> None:
    CHANGES[what](workspace / "plain.txt")
    second = again(store, workspace, index, taken, "s_2")
    assert set(was_read) == {"plain.txt"}
    restore_of(target, store, second.root_key)
    assert compare(workspace, target) == []


def test_changes_of_folders_links_and_names_are_in_the_next_snapshot(
    store: Store, workspace: Path, target: Path, index: Path, taken: Taken
) -> None:
    os.chmod(workspace / "sticky", 0o755)
    (workspace / "link").unlink()
    os.symlink("private", workspace / "link")
    (workspace / "one/first").unlink()
    (workspace / "locked").unlink()
    (workspace / "fifo").unlink()
    put(workspace / "fifo", b"a file now")
    os.link(workspace / "plain.txt", workspace / "zz-linked-now")
    second = again(store, workspace, index, taken, "s_2")
    verify_of(store, second)
    restore_of(target, store, second.root_key)
    assert compare(workspace, target) == []


def test_files_in_a_folder_that_was_renamed_are_not_read_again(
    store: Store, workspace: Path, target: Path, index: Path, was_read: list[str]
) -> None:
    put(workspace / "models/old/weights", noise(2_000_000))
    taken = take_of(workspace, store, stat_index=index, clock_ns=later())
    was_read.clear()
    (workspace / "models/old").rename(workspace / "models/new")
    second = again(store, workspace, index, taken, "s_2")
    assert was_read == []
    restore_of(target, store, second.root_key)
    assert compare(workspace, target) == []


def test_the_first_take_on_a_new_machine_reads_nothing(
    store: Store, workspace: Path, target: Path, index: Path, was_read: list[str]
) -> None:
    odd_tree(workspace)
    taken = take_of(workspace, store)
    restore_of(target, store, stat_index=index, clock_ns=later())
    was_read.clear()
    second = again(store, target, index, taken, "s_2")
    assert was_read == []
    assert second.content_id == taken.content_id


def test_a_file_that_is_changed_right_after_a_restore_is_read(
    store: Store, workspace: Path, target: Path, tmp_path: Path, index: Path
) -> None:
    put(workspace / "file", b"old", mtime_ns=HOUR_NS)
    taken = take_of(workspace, store)
    restore_of(target, store, stat_index=index)
    (target / "file").write_bytes(b"new")
    os.utime(target / "file", ns=(HOUR_NS, HOUR_NS))
    second = again(store, target, index, taken, "s_2", clock_ns=time.time_ns)
    restore_of(tmp_path / "third", store, second.root_key)
    assert (tmp_path / "third/file").read_bytes() == b"new"


def test_a_file_that_was_young_when_it_was_looked_at_is_read_again(
    store: Store, workspace: Path, index: Path, was_read: list[str]
) -> None:
    """It may be mapped into memory and dirty: the kernel shows further writes only once it has written it back."""
    put(workspace / "mapped", b"x" * 8_192)
    taken = take_of(workspace, store, stat_index=index)
    was_read.clear()
    again(store, workspace, index, taken, "s_2")
    assert was_read == ["mapped"]


def test_a_write_through_a_map_that_moved_no_time_is_in_the_next_snapshot(
    store: Store, workspace: Path, target: Path, index: Path
) -> None:
    put(workspace / "mapped", b"x" * 8_192)
    with (workspace / "mapped").open("r+b") as file, mmap.mmap(file.fileno(), 8_192) as memory:
        memory[0] = 1
        before = os.stat(workspace / "mapped").st_ctime_ns
        taken = take_of(workspace, store, stat_index=index)
        memory[1] = 2
        assert os.stat(workspace / "mapped").st_ctime_ns == before
        second = again(store, workspace, index, taken, "s_2")
    restore_of(target, store, second.root_key)
    assert (target / "mapped").read_bytes()[:3] == b"\x01\x02x"


def test_an_index_of_another_snapshot_key_or_with_a_flipped_bit_is_as_good_as_none(
    store: Store, workspace: Path, index: Path, taken: Taken, was_read: list[str]
) -> None:
    good = index.read_bytes()
    assert statindex.load(index, root_sha256=taken.root_sha256, owner_key=OwnerKey(KEY)) is not None
    assert statindex.load(index, root_sha256="0" * 64, owner_key=OwnerKey(KEY)) is None
    assert statindex.load(index, root_sha256=taken.root_sha256, owner_key=OwnerKey(b"o" * 32)) is None
    for bad in (b"", good[:100], good[:-1], good[:50] + bytes([good[50] ^ 1]) + good[51:]):
        index.write_bytes(bad)
        assert statindex.load(index, root_sha256=taken.root_sha256, owner_key=OwnerKey(KEY)) is None
    second = again(store, workspace, index, taken, "s_2")
    assert "plain.txt" in was_read
    assert second.content_id == taken.content_id


def test_an_index_that_cannot_be_written_costs_the_index_only(store: Store, workspace: Path) -> None:
    put(workspace / "a", b"x")
    taken = take_of(workspace, store, stat_index=workspace.parent / "absent/stat-index")
    verify_of(store, taken)


def test_what_a_restore_could_not_give_back_is_what_the_next_snapshot_holds(
    store: Store, workspace: Path, target: Path, index: Path
) -> None:
    put(workspace / "tool", b"#!/bin/sh\n", mode=0o4755)
    taken = take_of(workspace, store)
    restore_of(target, store, stat_index=index, allow_setuid=False, clock_ns=later())
    second = again(store, target, index, taken, "s_2")
    entry = manifest_of(store, second.root_key).find(b"tool")
    assert entry is not None and entry.mode == 0o755


def test_file_systems_that_never_write_back_are_not_believed(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir():
        pytest.skip("no tmpfs here")
    fd = os.open(memory, os.O_RDONLY)
    try:
        assert not mapped_writes_show(fd)
    finally:
        os.close(fd)


def test_the_wait_follows_the_kernels_settings(tmp_path: Path) -> None:
    (tmp_path / "dirty_expire_centisecs").write_text("3000\n")
    (tmp_path / "dirty_writeback_centisecs").write_text("500\n")
    assert written_back_within_ns(tmp_path) == 52_500_000_000
    (tmp_path / "dirty_writeback_centisecs").write_text("0\n")
    assert written_back_within_ns(tmp_path) > 10**18
    assert written_back_within_ns(tmp_path / "absent") >= 35 * 10**9
