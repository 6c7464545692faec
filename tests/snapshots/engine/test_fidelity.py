"""What goes in comes out: every kind of entry, every byte, every time."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapshots.engine.compare import compare
from snapshots.engine.store.base import Store
from snapshots.engine.store.folder import FolderStore
from tests.snapshots.engine.trees import (
    manifest_of,
    noise,
    odd_tree,
    put,
    restore_of,
    settle,
    sparse,
    supports_xattrs,
    take_of,
    verify_of,
)


def test_one_of_everything_comes_back_identical(store: Store, workspace: Path, target: Path) -> None:
    odd_tree(workspace)
    taken = take_of(workspace, store)
    verified = verify_of(store, taken)
    restored = restore_of(target, store, expected_content_id=taken.content_id)
    assert compare(workspace, target) == []
    assert taken.content_id == verified.content_id == restored.content_id
    assert taken.warnings == restored.warnings == ()
    assert (taken.files, taken.logical_bytes) == (restored.files, restored.logical_bytes)
    assert (verified.files, verified.logical_bytes) == (restored.files, restored.logical_bytes)


def test_a_restored_tree_gives_the_same_content_id_again(store: Store, workspace: Path, target: Path) -> None:
    odd_tree(workspace)
    first = take_of(workspace, store)
    restore_of(target, store)
    second = take_of(target, store, "s_2", parent=manifest_of(store))
    assert second.content_id == first.content_id
    assert second.new_packs == 0


def test_an_empty_workspace_comes_back_empty(store: Store, workspace: Path, target: Path) -> None:
    os.utime(workspace, ns=(5, 1_234_567_891))
    taken = take_of(workspace, store)
    verify_of(store, taken)
    restored = restore_of(target, store)
    assert compare(workspace, target) == []
    assert (taken.entries, restored.entries, taken.new_packs) == (0, 0, 0)


def test_setuid_setgid_and_sticky_bits_are_kept_and_can_be_left_out(
    store: Store, workspace: Path, target: Path, tmp_path: Path
) -> None:
    put(workspace / "setuid", b"x", mode=0o4755)
    put(workspace / "both", b"x", mode=0o6711)
    put(workspace / "sticky/x")
    os.chmod(workspace / "sticky", 0o3777)
    take_of(workspace, store)
    restore_of(target, store)
    assert [stat.S_IMODE(os.lstat(target / name).st_mode) for name in ("setuid", "both", "sticky")] == [
        0o4755,
        0o6711,
        0o3777,
    ]
    restore_of(tmp_path / "tame", store, allow_setuid=False)
    assert [stat.S_IMODE(os.lstat(tmp_path / "tame" / name).st_mode) for name in ("setuid", "both")] == [
        0o755,
        0o711,
    ]


@pytest.mark.parametrize(
    "mtime_ns", [0, 1, -1_500_000_001, 1_700_000_000_999_999_999, 4_102_444_800_000_000_001]
)
def test_times_are_kept_to_the_nanosecond_also_before_1970(
    store: Store, workspace: Path, target: Path, mtime_ns: int
) -> None:
    put(workspace / "folder/file", b"x")
    os.symlink("file", workspace / "folder/link")
    for name in ("folder/file", "folder/link", "folder", "."):
        os.utime(workspace / name, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
    held = os.lstat(workspace / "folder/file").st_mtime_ns  # what this file system makes of it
    take_of(workspace, store)
    restore_of(target, store)
    for name in ("folder/file", "folder/link", "folder", "."):
        assert os.lstat(target / name).st_mtime_ns == held


def test_symlinks_are_kept_as_text_and_never_followed(store: Store, workspace: Path, target: Path) -> None:
    outside = workspace.parent / "outside"
    put(outside / "secret", b"not part of the workspace")
    os.symlink("../outside", workspace / "up")
    os.symlink(str(outside / "secret"), workspace / "absolute")
    os.symlink("nowhere", workspace / "dangling")
    taken = take_of(workspace, store)
    assert (taken.files, taken.logical_bytes) == (0, 0)
    restore_of(target, store)
    assert sorted((name, os.readlink(target / name)) for name in os.listdir(target)) == [
        ("absolute", str(outside / "secret")),
        ("dangling", "nowhere"),
        ("up", "../outside"),
    ]


def test_hard_links_stay_one_file_and_are_stored_once(store: Store, workspace: Path, target: Path) -> None:
    put(workspace / "b/file", noise(200_000))
    os.link(workspace / "b/file", workspace / "a-name")
    os.link(workspace / "b/file", workspace / "c-name")
    put(workspace.parent / "outside", b"also linked from outside")
    os.link(workspace.parent / "outside", workspace / "half-outside")
    taken = take_of(workspace, store)
    assert (taken.files, taken.entries) == (2, 5)
    restore_of(target, store)
    inodes = {os.lstat(target / name).st_ino for name in ("b/file", "a-name", "c-name")}
    assert len(inodes) == 1
    assert os.lstat(target / "half-outside").st_nlink == 1
    assert compare(workspace, target) == []


def test_holes_stay_holes_and_cost_nothing(store: Store, workspace: Path, target: Path) -> None:
    sparse(workspace / "map", 60_000_000, {30_000_000: noise(1_000_000)})
    taken = take_of(workspace, store)
    assert taken.logical_bytes == 60_000_000
    assert taken.stored_bytes < 1_100_000
    restored = restore_of(target, store)
    assert restored.fetched_bytes < 1_100_000
    before, after = (os.lstat(folder / "map").st_blocks for folder in (workspace, target))
    assert after <= before + 128
    assert compare(workspace, target) == []


def test_user_attributes_are_kept_on_files_and_folders(store: Store, workspace: Path, target: Path) -> None:
    if not supports_xattrs(workspace):
        pytest.skip("this file system has no user attributes")
    put(workspace / "folder/file", b"x", mode=0o400)
    for name in ("folder/file", "folder", "."):
        os.setxattr(workspace / name, "user.a", b"\x00\xff")
        os.setxattr(workspace / name, "user.b", b"")
    take_of(workspace, store)
    restore_of(target, store)
    for name in ("folder/file", "folder", "."):
        assert {key: os.getxattr(target / name, key) for key in os.listxattr(target / name)} == {
            "user.a": b"\x00\xff",
            "user.b": b"",
        }


def test_sockets_and_devices_are_noted_reported_and_left_out(
    store: Store, workspace: Path, target: Path
) -> None:
    put(workspace / "file", b"x")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(workspace / "socket"))
    listener.close()
    devices = []
    if os.geteuid() == 0:
        os.mknod(workspace / "null", stat.S_IFCHR | 0o640, os.makedev(1, 3))
        devices = ["null"]
    taken = take_of(workspace, store)
    assert len(taken.warnings) == 1 + len(devices)
    restored = restore_of(target, store, expected_content_id=taken.content_id)
    assert sorted(os.listdir(target)) == ["file"]
    assert len(restored.warnings) == 1 + len(devices)
    if devices:
        allowed = target.parent / "allowed"
        restore_of(allowed, store, allow_devices=True)
        assert os.lstat(allowed / "null").st_rdev == os.makedev(1, 3)
        assert stat.S_IMODE(os.lstat(allowed / "null").st_mode) == 0o640


def test_a_folder_that_is_a_symlink_itself_can_be_the_source(
    store: Store, workspace: Path, target: Path
) -> None:
    put(workspace / "file", b"x")
    os.symlink(workspace, workspace.parent / "alias")
    take_of(workspace.parent / "alias", store)
    restore_of(target, store)
    assert compare(workspace, target) == []


# -- any tree -------------------------------------------------------------------------------------

names = st.binary(min_size=1, max_size=12).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
modes = st.integers(0, 0o7777)
contents = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda size, seed: noise(size, seed), st.integers(0, 3_000_000), st.integers(0, 3)),
    st.builds(lambda size: b"text " * size, st.integers(0, 400_000)),
)
leaves = st.one_of(
    st.tuples(st.just("file"), contents, modes),
    st.tuples(
        st.just("symlink"),
        st.binary(min_size=1, max_size=40).filter(lambda text: b"\0" not in text),
        st.just(0),
    ),
    st.tuples(st.just("fifo"), st.just(b""), modes),
    st.tuples(st.just("hole"), st.integers(0, 5_000_000).map(lambda n: n.to_bytes(4, "big")), modes),
)
trees = st.recursive(
    st.dictionaries(names, leaves, max_size=5),
    lambda below: st.dictionaries(names, st.one_of(leaves, below), max_size=5),
    max_leaves=20,
)


def build(root: bytes, tree: dict[bytes, Any]) -> None:
    os.makedirs(root, exist_ok=True)
    for name, what in tree.items():
        path = root + b"/" + name
        if isinstance(what, dict):
            build(path, what)
            continue
        kind, data, mode = what
        if kind == "symlink":
            os.symlink(data, path)
        elif kind == "fifo":
            os.mkfifo(path)
            os.chmod(path, mode)
        elif kind == "hole":
            size = int.from_bytes(data, "big")
            sparse(Path(os.fsdecode(path)), size, {size // 2: b"x"} if size > 1 else {})
            os.chmod(path, mode)
        else:
            put(path, data, mode=mode)


@pytest.mark.slow
@given(tree=trees, seed=st.integers(0, 2**31))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_tree_is_restored_identical(tmp_path: Path, tree: dict[bytes, Any], seed: int) -> None:
    base = tmp_path / "any"
    shutil.rmtree(base, ignore_errors=True)
    source = base / "workspace"
    build(os.fsencode(source), tree)
    settle(source, before_ns=1_600_000_000_000_000_000 + seed)
    store = FolderStore(base / "objects")
    taken = take_of(source, store)
    verified = verify_of(store, taken)
    restored = restore_of(base / "back", store)
    assert compare(source, base / "back") == []
    assert taken.content_id == verified.content_id == restored.content_id
