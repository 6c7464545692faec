"""A restore is complete and checked, or nothing appeared; and it may be begun again after anything."""

from __future__ import annotations

import fcntl
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshots.engine.compare import compare
from snapshots.engine.errors import (
    Cancelled,
    DataDamaged,
    EngineError,
    ManifestRefused,
    RestoreFailed,
    RestoreRefused,
)
from snapshots.engine.limits import MIB, Effort
from snapshots.engine.progress import Progress
from snapshots.engine.store.base import ObjectMissing, Store, StoreBusy, StoreError
from tests.snapshots.engine.remotes import Watched
from tests.snapshots.engine.trees import OTHER_KEY, manifest_of, noise, odd_tree, put, restore_of, take_of


@pytest.fixture
def taken(store: Store, workspace: Path) -> str:
    """A snapshot of a tree with small and large files. Its root's key."""
    odd_tree(workspace)
    return take_of(workspace, store).root_key


def left_over(target: Path) -> list[str]:
    return (
        [name for name in os.listdir(target.parent) if name != target.name] if target.parent.exists() else []
    )


# -- the target -----------------------------------------------------------------------------------


def test_an_empty_folder_is_replaced_and_parents_are_made(
    store: Store, workspace: Path, target: Path, taken: str
) -> None:
    target.mkdir(parents=True)
    restore_of(target, store, taken)
    assert compare(workspace, target) == []
    deeper = target.parent / "a/b/c"
    restore_of(deeper, store, taken)
    assert compare(workspace, deeper) == []
    assert left_over(target) == ["a"]


def test_a_target_with_anything_in_it_is_refused_and_not_touched(
    store: Store, target: Path, taken: str
) -> None:
    put(target / "mine", b"precious")
    with pytest.raises(RestoreRefused, match=r"not empty \(mine\).*move it away"):
        restore_of(target, store, taken)
    assert (target / "mine").read_bytes() == b"precious"
    assert left_over(target) == []


def test_a_target_that_is_a_file_is_refused(store: Store, target: Path, taken: str) -> None:
    put(target, b"a file")
    with pytest.raises(RestoreRefused, match="not a folder"):
        restore_of(target, store, taken)
    assert target.read_bytes() == b"a file"


def test_a_target_that_is_a_symlink_to_an_empty_folder_fills_that_folder(
    store: Store, workspace: Path, target: Path, taken: str
) -> None:
    (target.parent / "disk").mkdir(parents=True)
    os.symlink("disk", target)
    restore_of(target, store, taken)
    assert compare(workspace, target.parent / "disk") == []


def test_nothing_is_under_the_targets_name_before_everything_is(
    store: Store, workspace: Path, target: Path, taken: str
) -> None:
    seen: set[bool] = set()
    restore_of(
        target,
        store,
        taken,
        progress=lambda progress: seen.add(target.exists()) if progress.phase != "finish" else None,
    )
    assert seen == {False}
    assert compare(workspace, target) == []


def test_a_second_restore_into_the_same_target_is_refused_while_one_is_at_work(
    store: Store, target: Path, taken: str
) -> None:
    refusals: list[str] = []

    def meanwhile(progress: Progress) -> None:
        if progress.phase == "restore" and not refusals:
            with pytest.raises(RestoreRefused) as caught:
                restore_of(target, store, taken)
            refusals.append(str(caught.value))

    restore_of(target, store, taken, progress=meanwhile)
    assert "another restore" in refusals[0]


def test_what_a_killed_restore_left_is_cleared_whatever_its_modes(
    store: Store, workspace: Path, target: Path, taken: str
) -> None:
    left = target.parent / f".{target.name}.restoring"
    put(left / "half/file", b"from an older attempt", mode=0o000)
    os.symlink("/etc", left / "half/link")
    (left / "half/sealed").mkdir()
    os.chmod(left / "half/sealed", 0o000)
    os.chmod(left / "half", 0o500)
    restore_of(target, store, taken)
    assert compare(workspace, target) == []
    assert left_over(target) == []


def test_a_staging_folder_that_is_a_symlink_is_not_followed(store: Store, target: Path, taken: str) -> None:
    put(target.parent / "victim/file", b"x")
    os.symlink("victim", target.parent / f".{target.name}.restoring")
    with pytest.raises(RestoreRefused):
        restore_of(target, store, taken)
    assert (target.parent / "victim/file").read_bytes() == b"x"


def test_a_target_without_enough_room_is_refused_before_anything_is_fetched(
    store: Store, target: Path, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from snapshots.engine.staging import Staging

    monkeypatch.setattr(Staging, "free_bytes", lambda self: 1_000_000)
    remote = Watched(store)
    with pytest.raises(RestoreRefused, match=r"needs [\d,]+ bytes .* 1,000,000 free: choose a larger disk"):
        restore_of(target, remote, taken)
    assert not [key for key, _, _ in remote.got if "/p/" in key]
    assert left_over(target) == []


def test_a_disk_that_fills_up_ends_the_restore_and_leaves_nothing(
    store: Store, workspace: Path, target: Path
) -> None:
    put(workspace / "large", noise(3 * MIB))
    taken = take_of(workspace, store).root_key
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (2 * MIB, before[1])
    )  # the nearest to a full disk that needs no disk
    try:
        with pytest.raises(RestoreFailed, match="File too large"):
            restore_of(target, store, taken)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not target.exists()
    assert left_over(target) == []
    restore_of(target, store, taken)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 8 MiB, mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_to_be_full(
    store: Store, workspace: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from snapshots.engine.staging import Staging

    put(workspace / "large", noise(12 * MIB))
    taken = take_of(workspace, store).root_key
    monkeypatch.setattr(Staging, "free_bytes", lambda self: None)
    with pytest.raises(RestoreFailed, match="is full: choose a larger one; the snapshot is untouched"):
        restore_of(small_disk / "workspace", store, taken)
    assert os.listdir(small_disk) == []


def test_a_mount_point_is_filled_from_within(store: Store, workspace: Path, small_disk: Path) -> None:
    put(workspace / "folder/file", b"x")
    os.symlink("folder", workspace / "link")
    os.chmod(workspace, 0o711)
    taken = take_of(workspace, store).root_key
    (small_disk / "lost+found").mkdir()
    put(small_disk / ".restoring/folder/half", b"left by a killed restore")
    restored = restore_of(small_disk, store, taken)
    assert os.stat(small_disk).st_mtime_ns == os.stat(workspace).st_mtime_ns
    (small_disk / "lost+found").rmdir()
    os.utime(small_disk, ns=(0, os.stat(workspace).st_mtime_ns))
    assert compare(workspace, small_disk) == []
    assert restored.files == 1
    with pytest.raises(RestoreRefused, match="not empty"):
        restore_of(small_disk, store, taken)


def test_a_restore_into_a_mount_point_that_was_killed_while_it_moved_up_begins_again(
    store: Store, workspace: Path, small_disk: Path
) -> None:
    put(workspace / "a/file", b"a")
    put(workspace / "b/file", b"b")
    taken = take_of(workspace, store).root_key
    put(small_disk / "a/file", b"moved up already")
    put(small_disk / ".restoring/b/file", b"not yet")
    restore_of(small_disk, store, taken)
    assert (small_disk / "a/file").read_bytes() == b"a"
    assert sorted(os.listdir(small_disk)) == ["a", "b"]


def test_a_mount_point_with_something_foreign_in_it_is_refused_also_after_a_killed_restore(
    store: Store, workspace: Path, small_disk: Path
) -> None:
    put(workspace / "a/file", b"a")
    taken = take_of(workspace, store).root_key
    put(small_disk / "precious", b"mine")
    put(small_disk / ".restoring/a/file", b"half")
    with pytest.raises(RestoreRefused, match="precious"):
        restore_of(small_disk, store, taken)
    assert (small_disk / "precious").read_bytes() == b"mine"


# -- the store ------------------------------------------------------------------------------------


def spoil(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("how", ["wrong", "short", "empty", "swapped"])
def test_a_store_that_gives_other_bytes_is_found_out_and_nothing_appears(
    store: Store, target: Path, taken: str, how: str
) -> None:
    def lie(key: str, offset: int, data: bytes) -> bytes:
        if "/p/" not in key:
            return data
        return {"wrong": spoil(data), "short": data[: len(data) // 2], "empty": b"", "swapped": data[::-1]}[
            how
        ]

    with pytest.raises(DataDamaged, match=r"o/u_alice/p/[0-9a-f]{32}, block at \d+"):
        restore_of(target, Watched(store, on_get=lie), taken)
    assert not target.exists()
    assert left_over(target) == []


def test_bytes_that_came_damaged_once_are_asked_for_again(
    store: Store, workspace: Path, target: Path, taken: str
) -> None:
    lies: list[str] = []

    def lie_once(key: str, offset: int, data: bytes) -> bytes:
        if "/p/" in key and not lies:
            lies.append(key)
            return spoil(data)
        return data

    restore_of(target, Watched(store, on_get=lie_once), taken)
    assert lies
    assert compare(workspace, target) == []


def test_a_missing_pack_is_named(store: Store, target: Path, taken: str) -> None:
    gone = store.list("o/u_alice/p/")[0].key
    store.delete(gone)
    with pytest.raises(DataDamaged, match=gone):
        restore_of(target, store, taken)
    assert not target.exists()


@pytest.mark.parametrize("error", [StoreBusy("no answer"), OSError("connection reset")])
def test_a_store_that_fails_ends_the_restore_and_leaves_nothing(
    store: Store, target: Path, taken: str, error: Exception
) -> None:
    def fail(key: str, offset: int, data: bytes) -> bytes:
        if "/p/" in key:
            raise error
        return data

    with pytest.raises((StoreError, RestoreFailed)):
        restore_of(target, Watched(store, on_get=fail), taken)
    assert not target.exists()
    assert left_over(target) == []


def test_a_snapshot_that_does_not_exist_is_missing(store: Store, target: Path) -> None:
    with pytest.raises(ObjectMissing):
        restore_of(target, store, "o/u_alice/m/never")
    assert not target.parent.exists()


def test_another_owners_key_opens_nothing(store: Store, target: Path, taken: str) -> None:
    with pytest.raises(ManifestRefused, match="seal"):
        restore_of(target, store, taken, owner_key=OTHER_KEY)


# -- stopping and starting again ------------------------------------------------------------------


@pytest.mark.slow
def test_a_restore_that_is_cancelled_at_any_moment_leaves_nothing_and_can_begin_again(
    store: Store, workspace: Path, target: Path, taken: str
) -> None:
    asked = itertools.count()
    restore_of(target.parent / "whole", store, taken, cancelled=lambda: next(asked) < 0)
    whole = next(asked)
    assert whole > 15
    for stop_at in range(0, whole - 1, max(1, whole // 12)):
        asks = itertools.count()
        try:
            restore_of(target, store, taken, cancelled=lambda asks=asks, at=stop_at: next(asks) >= at)
        except Cancelled:
            assert left_over(target) == ["whole"]
            assert not target.exists()
        else:
            target.rename(target.parent / "whole-too")
            break
    restore_of(target, store, taken)
    assert compare(workspace, target) == []


KILLED = """
import os, sys
from pathlib import Path
from tests.snapshots.engine.trees import restore_of
from snapshots.engine.store.folder import FolderStore
store, target, root_key, at = sys.argv[1:]
left = int(at)
def progress(p): pass
def cancelled():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
    return False
restore_of(Path(target), FolderStore(store), root_key, cancelled=cancelled)
"""


@pytest.mark.parametrize("at", [1, 3, 6, 10, 13])
def test_a_restore_that_was_killed_can_begin_again(
    store: Store, workspace: Path, target: Path, taken: str, tmp_path: Path, at: int
) -> None:
    code = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "objects"), str(target), taken, str(at)],
        cwd=Path(__file__).parents[3],
        check=False,
    ).returncode
    assert code == -signal.SIGKILL
    assert not target.exists()
    restore_of(target, store, taken)
    assert compare(workspace, target) == []
    assert left_over(target) == []


# -- how it reads ---------------------------------------------------------------------------------


def test_only_what_is_needed_is_fetched(store: Store, workspace: Path, target: Path) -> None:
    for number in range(24):
        put(workspace / f"{number}.bin", noise(MIB, number))
    take_of(workspace, store)
    for number in range(24):
        if number not in (3, 17):
            (workspace / f"{number}.bin").unlink()
    second = take_of(workspace, store, "s_2", parent=manifest_of(store))
    restored = restore_of(target, store, second.root_key)
    assert restored.fetched_bytes < 2 * MIB + 10_000
    assert compare(workspace, target) == []


def test_no_more_bytes_are_in_flight_than_the_budget_allows(
    store: Store, workspace: Path, target: Path
) -> None:
    put(workspace / "large", noise(40 * MIB))
    taken = take_of(workspace, store).root_key
    lock, flight, most = threading.Lock(), [0], [0]

    def count(key: str, offset: int, data: bytes) -> bytes:
        if "/p/" in key:
            with lock:
                flight[0] += len(data)
                most[0] = max(most[0], flight[0])
            threading.Event().wait(0.02)
            with lock:
                flight[0] -= len(data)
        return data

    restore_of(target, Watched(store, on_get=count), taken, effort=Effort(streams=32, fetch_bytes=20 * MIB))
    assert 8 * MIB < most[0] <= 20 * MIB


def test_progress_reaches_its_totals_and_never_goes_beyond(store: Store, target: Path, taken: str) -> None:
    seen: list[Progress] = []
    restored = restore_of(target, store, taken, progress=seen.append)
    assert list(dict.fromkeys(p.phase for p in seen)) == ["manifest", "restore", "finish"]
    assert all(p.bytes_done <= p.bytes_total and p.files_done <= p.files_total for p in seen)
    assert seen[-1].files_done == seen[-1].files_total == restored.entries + 0


def test_a_locked_staging_folder_is_not_cleared(store: Store, target: Path, taken: str) -> None:
    left = target.parent / f".{target.name}.restoring"
    put(left / "somebody/is/busy", b"x")
    fd = os.open(left, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(EngineError, match="another restore"):
        restore_of(target, store, taken)
    os.close(fd)
    assert (left / "somebody/is/busy").exists()
