"""Sizes of real workspaces."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshots.engine.compare import compare
from snapshots.engine.limits import GIB, MIB
from snapshots.engine.store.base import ObjectMissing
from snapshots.engine.store.folder import FolderStore
from snapshots.engine.verify import verify
from tests.snapshots.engine.trees import (
    KEY,
    manifest_of,
    noise,
    odd_tree,
    put,
    restore_of,
    sparse,
    take_of,
    verify_of,
)

FILES = 50_000


@pytest.fixture(autouse=True)
def tidy(tmp_path: Path) -> Iterator[None]:
    """pytest keeps the folders of its last three runs; these would be gigabytes."""
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_thousand_small_files_come_back(store: FolderStore, workspace: Path, target: Path) -> None:
    words = noise(64 * 1024)
    for number in range(FILES):
        folder = workspace / f"{number % 500:03d}"
        if number < 500:
            folder.mkdir()
        (folder / f"{number}.txt").write_bytes(b"%d\n" % number + words[number % 60_000 :][: number % 3_000])
    taken = take_of(workspace, store)
    assert taken.files == FILES
    assert len(taken.new_objects) < 60
    verify_of(store, taken, sample=0.1)
    restored = restore_of(target, store)
    assert restored.files == FILES
    assert compare(workspace, target) == []
    again = take_of(target, store, "s_2", parent=manifest_of(store))
    assert (again.new_packs, again.content_id) == (0, taken.content_id)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_file_of_two_gigabytes_comes_back(store: FolderStore, workspace: Path, target: Path) -> None:
    piece = noise(8 * MIB)
    with (workspace / "model.bin").open("wb") as file:
        for number in range(2 * GIB // len(piece)):
            file.write(number.to_bytes(8, "little") + piece[8:])
    taken = take_of(workspace, store)
    assert taken.logical_bytes == 2 * GIB
    verify_of(store, taken)
    restore_of(target, store)
    assert compare(workspace, target) == []


def test_a_sparse_file_of_twenty_gigabytes_comes_back(
    store: FolderStore, workspace: Path, target: Path
) -> None:
    sparse(
        workspace / "map", 20 * GIB, {0: b"begin", 10 * GIB + 12_345: noise(3 * MIB), 20 * GIB - 3: b"end"}
    )
    taken = take_of(workspace, store)
    assert taken.stored_bytes < 4 * MIB
    restore_of(target, store)
    assert os.stat(target / "map").st_size == 20 * GIB
    assert os.stat(target / "map").st_blocks == os.stat(workspace / "map").st_blocks
    with (target / "map").open("rb") as file:
        for offset, wanted in ((0, b"begin"), (10 * GIB + 12_345, noise(3 * MIB)), (20 * GIB - 3, b"end")):
            file.seek(offset)
            assert file.read(len(wanted)) == wanted


KILLED = """
import os, sys
from pathlib import Path
from snapshots.engine.store.folder import FolderStore
from tests.snapshots.engine.trees import restore_of, take_of
what, store, folder, snapshot_id = sys.argv[1:]
print("begun", flush=True)
if what == "take":
    take_of(Path(folder), FolderStore(store), snapshot_id)
else:
    restore_of(Path(folder), FolderStore(store), "o/u_alice/m/" + snapshot_id)
print("ended", flush=True)
"""


def killed_after(seconds: float, *arguments: str) -> bool:
    """Run it, SIGKILL it after so many seconds. True if it had ended by itself."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], cwd=Path(__file__).parents[3], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    rest = process.stdout.read()
    process.stdout.close()
    assert process.returncode in (0, -signal.SIGKILL)
    return rest == b"ended\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_take_killed_at_any_moment_is_whole_or_not_there(
    store: FolderStore, workspace: Path, tmp_path: Path
) -> None:
    odd_tree(workspace)
    for number in range(6):
        put(workspace / f"large-{number}", noise(20 * MIB, number))
    chance = random.Random(7)
    ended = 0
    for number in range(25):
        name = f"s_{number}"
        done = killed_after(chance.uniform(0, 1.2), "take", str(tmp_path / "objects"), str(workspace), name)
        root_key = f"o/u_alice/m/{name}"
        try:
            manifest = manifest_of(store, root_key)
        except ObjectMissing:
            assert not done
            continue
        ended += done
        verify(
            store,
            root_key=root_key,
            owner_key=KEY,
            owner_id="u_alice",
            expected_root_sha256=manifest.root_sha256,
            sample=1.0,
        )
    assert ended < 25
    take_of(workspace, store, "s_last")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_restore_killed_at_any_moment_is_whole_or_not_there_and_can_begin_again(
    store: FolderStore, workspace: Path, target: Path, tmp_path: Path
) -> None:
    odd_tree(workspace)
    for number in range(6):
        put(workspace / f"large-{number}", noise(20 * MIB, number))
    take_of(workspace, store)
    chance = random.Random(8)
    whole = 0
    for _ in range(25):
        done = killed_after(chance.uniform(0, 0.8), "restore", str(tmp_path / "objects"), str(target), "s_1")
        assert target.exists() or not done
        if target.exists():
            assert compare(workspace, target) == []
            whole += 1
            target.rename(tmp_path / f"whole-{whole}")
            subprocess.run(["rm", "-rf", str(tmp_path / f"whole-{whole}")], check=True)
    assert whole < 25
    restore_of(target, store)
    assert compare(workspace, target) == []
    assert os.listdir(target.parent) == [target.name]
