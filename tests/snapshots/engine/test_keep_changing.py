"""A tree that somebody works in while it is taken: every file whole, of this moment or of the last snapshot, never half."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshots.engine import reading
from snapshots.engine import scan as scanning
from snapshots.engine.compare import compare
from snapshots.engine.entry import Xattrs
from snapshots.engine.store.base import Store
from snapshots.engine.take import Taken
from tests.snapshots.engine import trees
from tests.snapshots.engine.test_take import Rounds
from tests.snapshots.engine.trees import manifest_of, noise, take_of, verify_of


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Path]]:
    """Each time a file of this set is read, somebody has written to it meanwhile."""
    written: set[Path] = set()
    real = reading._read

    def read(fd: int, offset: int, length: int) -> bytes:
        data = real(fd, offset, length)
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path in written:
            with path.open("ab") as file:
                file.write(b"!")
        return data

    monkeypatch.setattr(reading, "_read", read)
    yield written


def put(path: Path, data: bytes = b"") -> Path:
    trees.put(path, data)
    return path


def take(
    workspace: Path, store: Store, snapshot_id: str = "s_1", *, parent: str = "", **more: object
) -> Taken:
    """As an agent takes one of a running job's folder; it verifies."""
    known = manifest_of(store, f"o/u_alice/m/{parent}") if parent else None
    index = workspace.with_name("index")
    taken = take_of(
        workspace, store, snapshot_id=snapshot_id, parent=known, keep_changing=True, stat_index=index, **more
    )
    verify_of(store, taken)
    return taken


def restore_of(target: Path, store: Store, snapshot_id: str = "s_1") -> None:
    trees.restore_of(target, store, f"o/u_alice/m/{snapshot_id}")


@pytest.mark.parametrize("size", [1_000, 3_000_000, 18_000_000])
def test_a_file_that_is_always_written_keeps_its_last_version(
    store: Store, workspace: Path, target: Path, busy: set[Path], size: int
) -> None:
    log = put(workspace / "logs/train.log", noise(size))
    put(workspace / "counter", b"1")
    take(workspace, store)
    busy.add(log)
    with log.open("ab") as file:
        file.write(b"?")
    put(workspace / "counter", b"2")
    second = take(workspace, store, "s_2", parent="s_1")
    assert second.warnings == ("logs/train.log: it was written all the time; its last version is kept",)
    restore_of(target, store, "s_2")
    assert (target / "logs/train.log").read_bytes() == noise(size)
    assert (target / "counter").read_bytes() == b"2"
    # And once it holds still, it is as it is then.
    busy.clear()
    third = take(workspace, store, "s_3", parent="s_2")
    assert third.warnings == ()
    again = target.with_name("again")
    restore_of(again, store, "s_3")
    assert compare(workspace, again) == []


def test_one_without_an_earlier_version_is_left_out(
    store: Store, workspace: Path, target: Path, busy: set[Path]
) -> None:
    busy.add(put(workspace / "new.log", b"x"))
    put(workspace / "counter", b"1")
    taken = take(workspace, store)
    assert taken.warnings == (
        "new.log: it was written all the time, and there is no earlier version: it is left out",
    )
    restore_of(target, store)
    assert os.listdir(target) == ["counter"]


def test_other_names_of_such_a_file_go_with_it(
    store: Store, workspace: Path, target: Path, busy: set[Path]
) -> None:
    log = put(workspace / "a.log", b"one")
    os.link(log, workspace / "b.log")
    take(workspace, store)
    os.link(log, workspace / "c.log")
    busy.add(log)
    taken = take(workspace, store, "s_2", parent="s_1")
    assert [line.partition(":")[0] for line in taken.warnings] == ["a.log", "b.log", "c.log"]
    restore_of(target, store, "s_2")
    assert sorted(os.listdir(target)) == ["a.log", "b.log"]
    assert (target / "a.log").samefile(target / "b.log")
    assert (target / "a.log").read_bytes() == b"one"


def test_a_folder_that_never_comes_to_rest_is_as_it_was_last_seen(
    store: Store, workspace: Path, target: Path
) -> None:
    put(workspace / "busy/file", b"x")

    def act(number: int) -> None:
        put(workspace / f"busy/new-{number}", b"x")
        (workspace / f"busy/new-{number - 1}").unlink(missing_ok=True)

    taken = take(workspace, store, progress=Rounds(act))
    assert [line for line in taken.warnings if line.startswith("busy: names were made, moved or removed")]
    restore_of(target, store)
    assert (target / "busy/file").read_bytes() == b"x"


def test_a_file_that_moves_ahead_of_every_look_is_there_under_its_last_name(
    store: Store, workspace: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each folder in its turn has the file when it is looked through, so that one file is seen under six names."""
    for name in "abcdef":
        put(workspace / name / "stays", name.encode())
    put(workspace / "a/moves", b"whole")
    real = scanning.read_xattrs

    def look(fd: int) -> Xattrs:
        folder = Path(os.readlink(f"/proc/self/fd/{fd}"))
        (moving,) = workspace.glob("*/moves")
        if folder != workspace:
            moving.rename(folder / "moves")
        return real(fd)

    monkeypatch.setattr(scanning, "read_xattrs", look)
    take(workspace, store)
    restore_of(target, store)
    (moved,) = workspace.glob("*/moves")
    assert list(target.glob("*/moves")) == [target / moved.relative_to(workspace)]
    assert (target / moved.relative_to(workspace)).read_bytes() == b"whole"


def test_files_replaced_by_renaming_are_always_whole(store: Store, workspace: Path, target: Path) -> None:
    """The way in which careful programs save: a new file takes the name of the old one at once."""
    put(workspace / "state", b"0" * 50_000)
    over = threading.Event()

    def work() -> None:
        number = 0
        while not over.is_set():
            number += 1
            beside = put(workspace / "state.new", str(number % 10).encode() * 50_000)
            beside.replace(workspace / "state")

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for number in range(1, 4):
            take(workspace, store, f"s_{number}", parent=f"s_{number - 1}" if number > 1 else "")
            restore_of(target.with_name(f"t{number}"), store, f"s_{number}")
            found = (target.with_name(f"t{number}") / "state").read_bytes()
            assert len(found) == 50_000 and len(set(found)) == 1
    finally:
        over.set()
        worker.join()
