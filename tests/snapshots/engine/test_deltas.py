"""A checkpoint beside an older one is stored as what moved, and comes back also when the older one is gone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snapshots.engine.compare import compare
from snapshots.engine.errors import DataDamaged, ManifestRefused, SnapshotDamaged
from snapshots.engine.limits import MIB
from snapshots.engine.manifest import Manifest
from snapshots.engine.pack import BlockRecord
from snapshots.engine.reader import read_file
from snapshots.engine.store.base import Store
from snapshots.engine.take import Taken
from tests.snapshots.engine.forge import file, forge, pack_of
from tests.snapshots.engine.remotes import Watched
from tests.snapshots.engine.trees import manifest_of, put, restore_of, take_of, verify_of

SIZE = 3 * MIB + 4_000


def weights(seed: int) -> bytearray:
    values = np.random.default_rng(seed).standard_normal(SIZE // 4, np.float32) * np.float32(0.02)
    return bytearray(values.tobytes())


def moved(values: bytearray, seed: int) -> bytearray:
    """A tenth of the rows, scattered all over, is another one."""
    found, other = bytearray(values), weights(seed)
    for row in range(0, SIZE, 40_960):
        found[row : row + 4_096] = other[row : row + 4_096]
    return found


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "stat-index"


def deltas_of(manifest: Manifest) -> list[BlockRecord]:
    return [block for record in manifest.packs() for block in record.blocks if block.is_delta]


def take_two(store: Store, workspace: Path, index: Path, **options: Any) -> tuple[Taken, Taken]:
    """step-1000, then step-2000 beside it."""
    first = weights(1)
    put(workspace / "checkpoints/step-1000/model.safetensors", first)
    one = take_of(workspace, store, "s_1", stat_index=index)
    put(workspace / "checkpoints/step-2000/model.safetensors", moved(first, 2))
    parent = manifest_of(store)
    return one, take_of(workspace, store, "s_2", parent=parent, stat_index=index, **options)


def test_a_new_checkpoint_costs_what_moved(store: Store, workspace: Path, target: Path, index: Path) -> None:
    first, second = take_two(store, workspace, index)
    assert second.stored_bytes < 0.15 * first.stored_bytes
    assert len(deltas_of(manifest_of(store, second.root_key))) == 3
    verify_of(store, second)
    restore_of(target, store, second.root_key)
    assert compare(workspace, target) == []


def test_single_files_are_read_through_their_deltas(store: Store, workspace: Path, index: Path) -> None:
    _, second = take_two(store, workspace, index)
    manifest = manifest_of(store, second.root_key)
    found = b"".join(read_file(manifest, b"checkpoints/step-2000/model.safetensors"))
    assert found == (workspace / "checkpoints/step-2000/model.safetensors").read_bytes()


def test_what_a_delta_builds_on_outlives_its_file(
    store: Store, workspace: Path, target: Path, index: Path
) -> None:
    _, second = take_two(store, workspace, index)
    shutil.rmtree(workspace / "checkpoints/step-1000")
    parent = manifest_of(store, second.root_key)
    third = take_of(workspace, store, "s_3", parent=parent, stat_index=index)
    assert third.new_packs == 0
    verify_of(store, third)
    restore_of(target, store, third.root_key)
    assert compare(workspace, target) == []


def test_a_delta_is_never_built_on_a_delta(store: Store, workspace: Path, target: Path, index: Path) -> None:
    _, second = take_two(store, workspace, index)
    old = (workspace / "checkpoints/step-2000/model.safetensors").read_bytes()
    put(workspace / "checkpoints/step-3000/model.safetensors", moved(bytearray(old), 3))
    third = take_of(workspace, store, "s_3", parent=manifest_of(store, second.root_key), stat_index=index)
    manifest = manifest_of(store, third.root_key)
    found = deltas_of(manifest)
    assert len(found) == 6
    bases = [manifest.index.block_of(block.base_id) for block in found]
    assert all(block is not None and not block.is_delta for block in bases)
    restore_of(target, store, third.root_key)
    assert compare(workspace, target) == []


def test_a_sibling_that_has_changed_since_is_not_built_upon(
    store: Store, workspace: Path, target: Path, index: Path
) -> None:
    first = weights(1)
    put(workspace / "step-1/model.bin", first)
    take_of(workspace, store, "s_1", stat_index=index)
    put(workspace / "step-1/model.bin", weights(5))
    put(workspace / "step-2/model.bin", moved(first, 2))
    second = take_of(workspace, store, "s_2", parent=manifest_of(store), stat_index=index)
    assert deltas_of(manifest_of(store, second.root_key)) == []
    restore_of(target, store, second.root_key)
    assert compare(workspace, target) == []


def test_a_base_with_other_bytes_is_noticed(store: Store, workspace: Path, target: Path, index: Path) -> None:
    _, second = take_two(store, workspace, index)
    manifest = manifest_of(store, second.root_key)
    base = manifest.index.block_of(deltas_of(manifest)[0].base_id)
    assert base is not None
    middle = base.offset + base.span // 2

    def rot(key: str, offset: int, data: bytes) -> bytes:
        at = middle - offset
        if "/p/" in key and 0 <= at < len(data) and len(data) >= base.span:
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        return data

    rotten = Watched(store, on_get=rot)
    with pytest.raises(DataDamaged):
        b"".join(read_file(manifest_of(rotten, second.root_key), b"checkpoints/step-2000/model.safetensors"))
    with pytest.raises(DataDamaged):
        restore_of(target, rotten, second.root_key)


def test_a_manifest_whose_delta_has_no_base_is_refused(
    store: Store, workspace: Path, target: Path, index: Path
) -> None:
    """The packs of the bases are left out of the manifest."""
    _, second = take_two(store, workspace, index)
    records = [
        record
        for record in manifest_of(store, second.root_key).packs()
        if any(block.is_delta for block in record.blocks)
    ]
    entry = manifest_of(store, second.root_key).find(b"checkpoints/step-2000/model.safetensors")
    assert entry is not None
    key = forge(
        store, [file(b"x")._replace(size=entry.size, extents=entry.extents)], records, snapshot_id="s_9"
    )
    with pytest.raises(ManifestRefused, match="builds on chunk"):
        restore_of(target, store, key)


def test_verification_wants_the_bases_too(store: Store, workspace: Path, index: Path) -> None:
    _, second = take_two(store, workspace, index)
    manifest = manifest_of(store, second.root_key)
    holding = manifest.index.packs[manifest.index.place(deltas_of(manifest)[0].base_id).pack]
    store.delete(f"o/u_alice/p/{holding.pack_id.hex()}")
    with pytest.raises(SnapshotDamaged, match="is missing"):
        verify_of(store, second)


def test_forged_packs_of_whole_chunks_still_restore(store: Store, target: Path) -> None:
    key = forge(store, [file(b"a", b"data")], [pack_of(store, b"data")])
    restore_of(target, store, key)
    assert (target / "a").read_bytes() == b"data"
