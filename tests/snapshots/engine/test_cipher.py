"""Encrypted snapshots: everything that says anything is encrypted, and nothing but the owner's key opens it."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapshots.engine.cipher import Cipher
from snapshots.engine.compare import compare
from snapshots.engine.errors import DataDamaged, SnapshotDamaged
from snapshots.engine.keys import OwnerKey, pack_key
from snapshots.engine.pack import scan_pack
from snapshots.engine.reader import read_file
from snapshots.engine.store.base import Store
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

SECRET = b"a line that nobody else should read, again and again and again\n"


def test_an_encrypted_tree_comes_back_whole_and_increments_build_on_it(
    store: Store, workspace: Path, target: Path
) -> None:
    odd_tree(workspace)
    take_of(workspace, store, encrypt=True)
    put(workspace / "new", SECRET)
    parent = manifest_of(store)
    second = take_of(workspace, store, "s_2", parent=parent, encrypt=True)
    assert second.new_packs == 1
    verify_of(store, second)
    restore_of(target, store, second.root_key)
    assert compare(workspace, target) == []
    assert b"".join(read_file(manifest_of(store, second.root_key), b"new")) == SECRET


def test_neither_contents_nor_names_can_be_read_in_the_store(store: Store, workspace: Path) -> None:
    put(workspace / "name-that-says-it-all", SECRET)
    put(workspace / "raw", noise(700_000) + SECRET)
    take_of(workspace, store, encrypt=True)
    for row in store.list(""):
        data = store.read(row.key)
        for secret in (SECRET[:20], b"name-that", noise(700_000)[:64]):
            assert secret not in data


def test_what_was_written_before_encryption_was_asked_for_is_not_built_upon(
    store: Store, workspace: Path, target: Path
) -> None:
    put(workspace / "file", SECRET)
    take_of(workspace, store)
    second = take_of(workspace, store, "s_2", parent=manifest_of(store), encrypt=True)
    manifest = manifest_of(store, second.root_key)
    assert manifest.is_encrypted and manifest.root.parent_id is None
    assert all(block.flags for record in manifest.packs() for block in record.blocks)
    restore_of(target, store, second.root_key)
    assert compare(workspace, target) == []


def test_packs_are_indexed_without_any_key(store: Store, workspace: Path) -> None:
    put(workspace / "file", SECRET)
    take_of(workspace, store, encrypt=True)
    (record,) = manifest_of(store).packs()
    assert scan_pack(store.read(pack_key("u_alice", record.pack_id)), pack_id=record.pack_id) == record


def test_a_flipped_bit_of_an_encrypted_block_is_found(store: Store, workspace: Path) -> None:
    put(workspace / "file", SECRET)
    taken = take_of(workspace, store, encrypt=True)
    (record,) = manifest_of(store).packs()
    key, (block,) = pack_key("u_alice", record.pack_id), record.blocks
    data = store.read(key)
    at = block.offset + block.span - 20
    store.delete(key)
    store.write(key, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], sha256=record.sha256.hex())
    with pytest.raises(SnapshotDamaged, match="was altered"):
        verify_of(store, taken)


def test_only_the_same_key_beside_the_same_bytes_opens() -> None:
    cipher = OwnerKey(KEY).cipher
    sealed = cipher.seal(SECRET, beside=b"header")
    assert cipher.open(sealed, beside=b"header") == SECRET
    assert cipher.seal(SECRET, beside=b"header") != sealed
    with pytest.raises(DataDamaged):
        cipher.open(sealed, beside=b"heading")
    with pytest.raises(DataDamaged):
        Cipher(bytes(32)).open(sealed, beside=b"header")
    for bad in (b"", sealed[:31], sealed[:-1], sealed + b"x", b"\0" * 16 + sealed[16:]):
        with pytest.raises(DataDamaged):
            cipher.open(bad, beside=b"header")
