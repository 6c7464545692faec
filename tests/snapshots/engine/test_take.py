"""Taking a snapshot of a tree that moves, breaks, or is too much; and storing only what is new."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from snapshots.engine import reading
from snapshots.engine.compare import compare
from snapshots.engine.errors import (
    Cancelled,
    EngineError,
    FileChanging,
    FileUnreadable,
    SnapshotRefused,
)
from snapshots.engine.keys import KeyRefused
from snapshots.engine.limits import MIB, Effort, Limits
from snapshots.engine.progress import Progress
from snapshots.engine.remote import ObjectPlan
from snapshots.engine.store.base import ObjectExists, ObjectMissing, Store, StoreBusy, StoreRefused
from tests.snapshots.engine.remotes import Watched
from tests.snapshots.engine.trees import (
    FAST,
    manifest_of,
    noise,
    odd_tree,
    put,
    restore_of,
    sparse,
    take_of,
    verify_of,
)


class Rounds:
    """Acts once at the beginning of each reading."""

    def __init__(self, act: Callable[[int], None]) -> None:
        self._act = act
        self._phase = ""
        self.count = 0

    def __call__(self, progress: Progress) -> None:
        if progress.phase == "read" != self._phase:
            self.count += 1
            self._act(self.count)
        self._phase = progress.phase


@pytest.fixture
def touching_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """While a file of this list is being read, it gets another byte. Each mention is used up once."""
    touched: list[Path] = []
    real = reading._read

    def read(fd: int, offset: int, length: int) -> bytes:
        data = real(fd, offset, length)
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path in touched:
            touched.remove(path)
            with path.open("ab") as file:
                file.write(b"!")
        return data

    monkeypatch.setattr(reading, "_read", read)
    yield touched


# -- files that change ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1_000, 300_000, 3_000_000, 18_000_000])
def test_a_file_that_changes_while_it_is_read_is_read_again(
    store: Store, workspace: Path, target: Path, touching_reads: list[Path], size: int
) -> None:
    put(workspace / "log", noise(size))
    touching_reads += [workspace / "log"] * 2
    take_of(workspace, store)
    assert touching_reads == []
    restore_of(target, store)
    assert (target / "log").read_bytes() == noise(size) + b"!!"
    assert compare(workspace, target) == []


@pytest.mark.parametrize("size", [1_000, 3_000_000, 18_000_000])
def test_a_file_that_changes_each_time_is_refused_by_name_and_nothing_verifies(
    store: Store, workspace: Path, touching_reads: list[Path], size: int
) -> None:
    put(workspace / "folder/busy.log", noise(size))
    touching_reads += [workspace / "folder/busy.log"] * 100
    with pytest.raises(FileChanging, match=r"folder/busy\.log: it changed each of the 3 times") as caught:
        take_of(workspace, store)
    assert caught.value.path == b"folder/busy.log"
    with pytest.raises(ObjectMissing):
        manifest_of(store)


def test_a_small_file_that_has_become_large_is_taken_as_it_is_now(
    store: Store, workspace: Path, target: Path
) -> None:
    put(workspace / "grows", b"small")
    put(workspace / "shrinks", noise(5_000_000))

    def act(number: int) -> None:
        if number == 1:
            (workspace / "grows").write_bytes(noise(3_000_000, 7))
            (workspace / "shrinks").write_bytes(b"small now")

    take_of(workspace, store, progress=Rounds(act))
    restore_of(target, store)
    assert compare(workspace, target) == []


def test_a_file_with_a_fresh_time_is_not_believed_before_its_tick_is_over(
    store: Store, workspace: Path
) -> None:
    put(workspace / "fresh", b"x")
    ctime_ns = os.stat(workspace / "fresh").st_ctime_ns
    began = time.monotonic()
    take_of(workspace, store, clock_ns=lambda: ctime_ns)
    assert time.monotonic() - began >= reading.FINE_TICK_NS / 1e9


# -- names that come and go -----------------------------------------------------------------------


def test_a_file_that_vanishes_is_left_out_with_a_warning(store: Store, workspace: Path, target: Path) -> None:
    for name in ("a/stays", "a/goes", "goes-with-its-folder/x"):
        put(workspace / name, name.encode())

    def act(number: int) -> None:
        if number == 1:
            (workspace / "a/goes").unlink()
            (workspace / "goes-with-its-folder/x").unlink()
            (workspace / "goes-with-its-folder").rmdir()

    taken = take_of(workspace, store, progress=Rounds(act))
    assert [warning.split(":")[0] for warning in taken.warnings] == ["a/goes", "goes-with-its-folder/x"]
    assert "vanished" in taken.warnings[0]
    restore_of(target, store)
    assert compare(workspace, target) == []


def test_a_file_that_is_moved_while_the_tree_is_read_is_found_under_its_new_name(
    store: Store, workspace: Path, target: Path
) -> None:
    put(workspace / "z/precious", noise(5_000))
    put(workspace / "a/other", b"x")

    def act(number: int) -> None:
        if number == 1:
            (workspace / "z/precious").rename(workspace / "a/precious")

    taken = take_of(workspace, store, progress=Rounds(act))
    restore_of(target, store)
    assert (target / "a/precious").read_bytes() == noise(5_000)
    assert compare(workspace, target) == []
    assert [warning.split(":")[0] for warning in taken.warnings] == ["z/precious"]


def test_a_file_that_appears_while_the_tree_is_read_is_in_the_snapshot(
    store: Store, workspace: Path, target: Path
) -> None:
    put(workspace / "old", b"x")
    rounds = Rounds(lambda number: put(workspace / "new", b"just written") if number == 1 else None)
    take_of(workspace, store, progress=rounds)
    assert rounds.count == 2
    restore_of(target, store)
    assert compare(workspace, target) == []


def test_a_file_that_is_replaced_by_renaming_is_taken_as_it_is_now(
    store: Store, workspace: Path, target: Path
) -> None:
    put(workspace / "state.json", b"old")
    os.link(workspace / "state.json", workspace / "twin")

    def act(number: int) -> None:
        if number == 1:
            put(workspace / "state.json.tmp", b"new")
            (workspace / "state.json.tmp").rename(workspace / "state.json")

    take_of(workspace, store, progress=Rounds(act))
    restore_of(target, store)
    assert ((target / "state.json").read_bytes(), (target / "twin").read_bytes()) == (b"new", b"old")
    assert compare(workspace, target) == []


@pytest.mark.parametrize("becomes", ["folder", "symlink", "fifo", "socket of nobody"])
def test_a_file_that_becomes_something_else_is_taken_as_that_and_never_followed(
    store: Store, workspace: Path, target: Path, becomes: str
) -> None:
    put(workspace / "sub/shifty", b"file")
    put(workspace.parent / "secret", b"outside")

    def act(number: int) -> None:
        if number > 1:
            return
        (workspace / "sub/shifty").unlink()
        if becomes == "folder":
            put(workspace / "sub/shifty/inside", b"x")
        elif becomes == "symlink":
            os.symlink("../../secret", workspace / "sub/shifty")
        elif becomes == "fifo":
            os.mkfifo(workspace / "sub/shifty")
        else:
            (workspace / "sub").rename(workspace / "moved")
            os.symlink("..", workspace / "sub")

    take_of(workspace, store, progress=Rounds(act))
    restore_of(target, store)
    assert compare(workspace, target) == []


def test_a_folder_that_never_comes_to_rest_is_refused_by_name(store: Store, workspace: Path) -> None:
    put(workspace / "busy/file", b"x")
    rounds = Rounds(lambda number: put(workspace / f"busy/new-{number}", b"x"))
    with pytest.raises(FileChanging, match="busy: files were made, moved or removed each of the 3 times"):
        take_of(workspace, store, progress=rounds)
    assert rounds.count == 3
    with pytest.raises(ObjectMissing):
        manifest_of(store)


# -- what cannot be taken -------------------------------------------------------------------------


def test_a_source_that_is_no_folder_is_refused(store: Store, workspace: Path) -> None:
    put(workspace / "file")
    for source in (workspace / "absent", workspace / "file"):
        with pytest.raises(FileUnreadable, match=source.name):
            take_of(source, store)


def test_a_tree_that_is_nested_too_deep_is_refused_by_name(store: Store, workspace: Path) -> None:
    fd = os.open(workspace, os.O_RDONLY)
    for _ in range(256):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(SnapshotRefused, match=r"d/d/d.*deeper than 255"):
        take_of(workspace, store)


def test_what_a_reader_would_refuse_is_not_written(store: Store, workspace: Path) -> None:
    for number in range(10):
        put(workspace / str(number), b"x")
    with pytest.raises(SnapshotRefused, match="9 entries"):
        take_of(workspace, store, limits=Limits(entries=9))
    sparse(workspace / "huge", 2_000_000, {})
    with pytest.raises(SnapshotRefused, match="huge has 2000000 bytes"):
        take_of(workspace, store, limits=Limits(file_bytes=1_999_999))
    with pytest.raises(ObjectMissing):
        manifest_of(store)


@pytest.mark.parametrize(
    ("owner", "snapshot"), [("../x", "s"), ("", "s"), ("a", ""), ("a", "a/b"), ("a", "x" * 65), ("-a", "s")]
)
def test_ids_that_make_no_key_are_refused_before_any_work(
    store: Store, workspace: Path, owner: str, snapshot: str
) -> None:
    with pytest.raises(KeyRefused):
        take_of(workspace, store, snapshot, owner_id=owner)
    with pytest.raises(KeyRefused):
        take_of(workspace, store, owner_key=b"short")
    assert store.list("") == []


def test_a_snapshot_id_can_be_used_once(store: Store, workspace: Path) -> None:
    put(workspace / "a", b"1")
    first = take_of(workspace, store)
    put(workspace / "b", b"2")
    with pytest.raises(ObjectExists):
        take_of(workspace, store)
    assert verify_of(store, first).files == 1


# -- the order of effects -------------------------------------------------------------------------


def test_segments_wait_for_packs_and_the_root_waits_for_everything(store: Store, workspace: Path) -> None:
    for number in range(5):
        put(workspace / f"{number}.bin", noise(900_000, number))
    remote = Watched(store)
    taken = take_of(workspace, remote, effort=replace(FAST, pack_bytes=2 * MIB))
    kinds = [key.split("/")[2] for key in remote.begun]
    assert kinds == sorted(kinds, key=["p", "s", "m"].index)
    assert kinds.count("p") == 2
    assert remote.ended[-1] == taken.root_key
    for begun, kind in zip(remote.begun, kinds, strict=True):
        earlier = {"p": 0, "s": kinds.count("p"), "m": len(kinds) - 1}[kind]
        assert begun not in remote.ended[:earlier]
    assert [plan.key for plan in taken.new_objects] == remote.ended
    assert taken.stored_bytes == sum(row.length for row in store.list(""))


@pytest.mark.parametrize("kind", ["p", "s", "m"])
@pytest.mark.parametrize("error", [StoreBusy("no answer"), StoreRefused("no"), OSError("connection reset")])
def test_an_upload_that_fails_ends_the_take_without_a_root(
    store: Store, workspace: Path, kind: str, error: Exception
) -> None:
    put(workspace / "data", noise(2_500_000))

    def fail(plan: ObjectPlan) -> None:
        if f"/{kind}/" in plan.key:
            raise error

    with pytest.raises(type(error)):
        take_of(workspace, Watched(store, on_put=fail), effort=replace(FAST, pack_bytes=MIB))
    with pytest.raises(ObjectMissing):
        manifest_of(store)


def test_a_take_that_is_cancelled_at_any_moment_leaves_nothing_that_verifies(
    store: Store, workspace: Path
) -> None:
    odd_tree(workspace)
    put(workspace / "more", noise(3_000_000))
    asked = itertools.count()
    take_of(workspace, store, "s_whole", cancelled=lambda: next(asked) < 0)
    whole = next(asked)
    assert whole > 20
    cancelled = 0
    for stop_at in range(0, whole, max(1, whole // 20)):
        asks = itertools.count()
        name = f"s_{stop_at}"
        try:
            taken = take_of(workspace, store, name, cancelled=lambda asks=asks, at=stop_at: next(asks) >= at)
        except Cancelled:
            cancelled += 1
            assert f"o/u_alice/m/{name}" not in [row.key for row in store.list("o/u_alice/m/")]
        else:
            verify_of(store, taken)
    assert cancelled >= 15


def test_an_error_in_the_progress_callback_reaches_the_caller(store: Store, workspace: Path) -> None:
    put(workspace / "data", noise(5_000_000))

    def tell(progress: Progress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        take_of(workspace, store, progress=tell)


def test_no_more_bytes_are_in_flight_than_the_budget_allows(store: Store, workspace: Path) -> None:
    for number in range(5):
        put(workspace / f"{number}.bin", noise(3 * MIB, number))
    full = threading.Event()

    def slow(plan: ObjectPlan) -> None:
        full.wait(0.05)

    remote = Watched(store, on_put=slow)
    take_of(workspace, remote, effort=Effort(streams=32, workers=2, memory_bytes=7 * MIB, pack_bytes=3 * MIB))
    assert remote.most_in_flight <= 7 * MIB
    assert remote.most_at_once == 2


def test_uploads_run_side_by_side(store: Store, workspace: Path) -> None:
    for number in range(5):
        put(workspace / f"{number}.bin", noise(3 * MIB, number))
    gate = threading.Semaphore(0)

    def wait_for_four(plan: ObjectPlan) -> None:
        if "/p/" not in plan.key:
            return
        if len([key for key in remote.begun if "/p/" in key]) >= 4:
            gate.release(10)
        assert gate.acquire(timeout=30)

    remote = Watched(store, on_put=wait_for_four)
    take_of(workspace, remote, effort=Effort(streams=8, workers=2, pack_bytes=2 * MIB))
    assert remote.most_at_once >= 4


def test_progress_reaches_its_totals_and_never_goes_beyond(store: Store, workspace: Path) -> None:
    odd_tree(workspace)
    put(workspace / "more", noise(20_000_000))
    seen: list[Progress] = []
    taken = take_of(workspace, store, progress=seen.append)
    phases = [progress.phase for progress in seen]
    assert list(dict.fromkeys(phases)) == ["scan", "read", "manifest"]
    assert all(p.bytes_done <= p.bytes_total and p.files_done <= p.files_total for p in seen)
    last = [progress for progress in seen if progress.phase == "read"][-1]
    assert last.files_total == taken.files
    assert last.bytes_total == taken.logical_bytes
    assert seen[-1].stored_bytes == taken.stored_bytes


def test_errors_show_odd_names_in_a_form_that_can_be_printed(
    store: Store, workspace: Path, touching_reads: list[Path]
) -> None:
    put(os.fsencode(workspace) + b"/bad-\xff\x1b[2J", b"x")
    touching_reads += [Path(os.fsdecode(os.fsencode(workspace) + b"/bad-\xff\x1b[2J"))] * 9
    with pytest.raises(EngineError) as caught:
        take_of(workspace, store, effort=FAST)
    assert str(caught.value).startswith("bad-\\xff\\x1b[2J: ")
