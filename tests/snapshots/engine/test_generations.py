"""From one generation to the next only what is new is stored, and never anything of another owner."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapshots.engine.compare import compare
from snapshots.engine.errors import ManifestRefused
from snapshots.engine.limits import MIB
from snapshots.engine.store.base import Store
from tests.snapshots.engine.trees import KEY, manifest_of, noise, put, restore_of, take_of, verify_of


def test_equal_files_are_stored_once(store: Store, workspace: Path) -> None:
    for name in ("a", "b", "c/d"):
        put(workspace / name, noise(3_000_000))
        put(workspace / f"{name}-small", noise(3_000, 2))
    taken = take_of(workspace, store)
    assert 3_003_000 < taken.stored_bytes < 3_010_000


def test_the_next_generation_stores_only_what_changed(store: Store, workspace: Path, target: Path) -> None:
    for number in range(300):
        put(workspace / f"src/{number % 10}/{number}.py", noise(2_000, number))
    put(workspace / "model.bin", noise(12_000_000))
    first = take_of(workspace, store)
    nothing = take_of(workspace, store, "s_2", parent=manifest_of(store))
    assert nothing.content_id == first.content_id
    assert nothing.new_packs == 0
    assert [plan.key for plan in nothing.new_objects] == [nothing.root_key]
    assert nothing.stored_bytes < 2_000
    with (workspace / "model.bin").open("r+b") as file:
        file.seek(5_500_000)
        file.write(noise(1_000, 9))
    put(workspace / "src/3/3.py", noise(2_500, 77))
    put(workspace / "src/new.py", noise(1_000, 78))
    (workspace / "src/4/4.py").unlink()
    changed = take_of(workspace, store, "s_3", parent=manifest_of(store, nothing.root_key))
    assert MIB < changed.stored_bytes < MIB + 60_000
    assert changed.referenced_bytes > 12_000_000
    verify_of(store, changed)
    restore_of(target, store, changed.root_key)
    assert compare(workspace, target) == []
    restore_of(target.parent / "older", store, first.root_key)
    assert (target.parent / "older/src/4/4.py").exists()


def test_a_file_that_comes_back_from_an_older_generation_is_found_in_its_parents_packs(
    store: Store, workspace: Path
) -> None:
    put(workspace / "keep", noise(100_000))
    put(workspace / "toggle", noise(200_000, 2))
    take_of(workspace, store)
    (workspace / "toggle").unlink()
    take_of(workspace, store, "s_2", parent=manifest_of(store))
    put(workspace / "toggle", noise(200_000, 2))
    third = take_of(workspace, store, "s_3", parent=manifest_of(store, "o/u_alice/m/s_2"))
    assert third.new_packs == 0
    verify_of(store, third)


def test_packs_that_nothing_needs_any_more_are_no_longer_named(
    store: Store, workspace: Path, target: Path
) -> None:
    put(workspace / "old.bin", noise(3_000_000))
    take_of(workspace, store)
    (workspace / "old.bin").unlink()
    put(workspace / "new.bin", noise(2_000_000, 2))
    second = take_of(workspace, store, "s_2", parent=manifest_of(store))
    assert second.referenced_bytes < 2_100_000
    assert len(list(manifest_of(store, second.root_key).packs())) == 1
    verify_of(store, second)


@pytest.mark.slow
def test_a_long_line_of_generations_does_not_pile_up_segments(
    store: Store, workspace: Path, target: Path
) -> None:
    taken = take_of(workspace, store, "g_0")
    for number in range(1, 25):
        put(workspace / f"f{number}", noise(500, number))
        taken = take_of(workspace, store, f"g_{number}", parent=manifest_of(store, taken.root_key))
    manifest = manifest_of(store, taken.root_key)
    assert len(list(manifest.packs())) == 24
    assert len(manifest.root.packs) == 1
    assert manifest.root.parent_id == "g_23"
    restore_of(target, store, taken.root_key)
    assert compare(workspace, target) == []


@pytest.mark.slow
def test_a_new_file_in_a_large_tree_rewrites_one_segment_of_its_manifest(
    store: Store, workspace: Path
) -> None:
    for folder in range(9):
        (workspace / f"{folder:03d}").mkdir()
        for number in range(1_000):
            (workspace / f"{folder:03d}/{number}").touch()
    first = take_of(workspace, store)
    segments = manifest_of(store).root.entries
    assert 2 <= len(segments) <= 9
    put(workspace / "001/added", b"x")
    second = take_of(workspace, store, "s_2", parent=manifest_of(store))
    new = {plan.key for plan in second.new_objects} - {plan.key for plan in first.new_objects}
    assert (
        len([key for key in new if "/s/" in key]) <= 3
    )  # entries, pack records, perhaps one at the folder's end
    verify_of(store, second)


def test_nothing_is_shared_with_another_owners_snapshot(store: Store, workspace: Path) -> None:
    put(workspace / "a", noise(5_000))
    take_of(workspace, store)
    with pytest.raises(ManifestRefused, match="belongs to owner u_alice"):
        take_of(workspace, store, owner_id="u_bob", owner_key=KEY, parent=manifest_of(store))
    other = take_of(workspace, store, owner_id="u_bob", owner_key=b"b" * 32)
    assert other.stored_bytes > 5_000
    assert not any("u_alice" in plan.key for plan in other.new_objects)
