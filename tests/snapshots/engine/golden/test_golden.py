"""Snapshots that released versions wrote are restored for ever, byte for byte, into the trees they were made from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from snapshots.engine.codecs import KNOWN, Codec
from snapshots.engine.compare import compare
from snapshots.engine.keys import OwnerKey
from snapshots.engine.manifest import Manifest, load_manifest
from snapshots.engine.pack import scan_pack
from snapshots.engine.reader import read_file
from snapshots.engine.remote import StoreRemote
from snapshots.engine.restore import restore
from snapshots.engine.store.folder import FolderStore
from snapshots.engine.verify import verify
from tests.snapshots.engine.golden.floats_v1 import build_floats
from tests.snapshots.engine.golden.tree_v1 import KEY, LEFT_OUT, build_first, build_second
from tests.snapshots.engine.trees import supports_xattrs

V1 = [
    (
        "o/u_golden/m/s_first",
        "de348fcae925838567f7f3c790b5a93cb7356cb3fa350460f49b36c3e89f889b",
        "7b6c1320b47fc7d5da5b4b30019ba5fa274be7ae6804a95ef1684645461c0cae",
    ),
    (
        "o/u_golden/m/s_second",
        "17043a69689c02a840295cd8bd538f310d9b55e564fdc08c22b949e9ef71886e",
        "bdca4e901338dbe55d053829003b1e9997543552165668da21a50f2bd68feb10",
    ),
]
FLOATS = [
    (
        "o/u_golden/m/s_floats",
        "4e0bc04482f2a0e551726dd26edad6f95e9977c07e43804fcde945217c85a7f6",
        "008c628af497f4e783be66ca5a77d0a3df4b2fb724c5d281d3e981eacb2f0ebc",
    ),
    (
        "o/u_golden/m/s_delta",
        "1a86cf2f988d55e5c3add60dc9264a25e71b5d1f5da2bd8a0979220fe9af4785",
        "921a6e8eb7411e234c8d256c9951e5060bad85a9c5cf8762da2ce49fa4c6ed98",
    ),
    (
        "o/u_golden/m/s_sealed",
        "00e455b1be5e23cf8541a1d6360532bd27ee475f26ffc4d9edd9fdc1c64415d1",
        "921a6e8eb7411e234c8d256c9951e5060bad85a9c5cf8762da2ce49fa4c6ed98",
    ),
]


@pytest.fixture
def v1(tmp_path: Path) -> FolderStore:
    shutil.copytree(Path(__file__).parent / "v1", tmp_path / "objects")
    return FolderStore(tmp_path / "objects")


@pytest.fixture
def original(request: pytest.FixtureRequest, workspace: Path) -> Path:
    if not supports_xattrs(workspace):
        pytest.skip("the golden tree has user attributes, this file system has not")
    build_first(workspace, with_specials=False)
    if request.param.endswith("second"):
        build_second(workspace)
    return workspace


@pytest.mark.parametrize(
    ("original", "root_key", "root_sha256", "content_id"), [(v[0], *v) for v in V1], indirect=["original"]
)
def test_version_1_is_verified_and_restored(
    v1: FolderStore, original: Path, target: Path, root_key: str, root_sha256: str, content_id: str
) -> None:
    verified = verify(
        v1,
        root_key=root_key,
        owner_key=KEY,
        owner_id="u_golden",
        expected_root_sha256=root_sha256,
        sample=1.0,
    )
    assert verified.content_id == content_id
    restored = restore(
        target, remote=StoreRemote(v1), owner_key=KEY, root_key=root_key, expected_content_id=content_id
    )
    assert restored.content_id == content_id
    ignore = frozenset() if os.geteuid() == 0 else frozenset({"owner"})
    assert compare(original, target, ignore=ignore, leave_out=LEFT_OUT) == []


@pytest.mark.parametrize(("root_key", "root_sha256", "content_id"), FLOATS)
def test_floats_deltas_and_encrypted_snapshots_of_version_1_are_verified_and_restored(
    v1: FolderStore, workspace: Path, target: Path, root_key: str, root_sha256: str, content_id: str
) -> None:
    build_floats(workspace, 1 if root_key.endswith("floats") else 2)
    verified = verify(
        v1,
        root_key=root_key,
        owner_key=KEY,
        owner_id="u_golden",
        expected_root_sha256=root_sha256,
        sample=1.0,
    )
    assert verified.content_id == content_id
    restore(target, remote=StoreRemote(v1), owner_key=KEY, root_key=root_key, expected_content_id=content_id)
    ignore = frozenset() if os.geteuid() == 0 else frozenset({"owner"})
    assert compare(workspace, target, ignore=ignore) == []


def test_the_golden_snapshots_hold_every_codec(v1: FolderStore) -> None:
    found = {
        (Codec(block.codec), block.flags)
        for root_key, *_ in (*V1, *FLOATS)
        for record in _manifest(v1, root_key).packs()
        for block in record.blocks
    }
    assert {codec for codec, _ in found} == KNOWN
    assert {flags for _, flags in found} == {0, 1}


def test_version_1_is_indexed_from_its_packs_alone(v1: FolderStore) -> None:
    known = {
        record.pack_id: record
        for root_key, *_ in (*V1, *FLOATS)
        for record in _manifest(v1, root_key).packs()
    }
    for row in v1.list("o/u_golden/p/"):
        pack_id = bytes.fromhex(row.key.rpartition("/")[2])
        assert scan_pack(v1.read(row.key), pack_id=pack_id) == known[pack_id]


def test_version_1_gives_out_single_files(v1: FolderStore) -> None:
    second = _manifest(v1, V1[1][0])
    assert b"".join(read_file(second, b"data/new")) == b"only in the second\n"
    assert b"".join(read_file(second, b"data/large"))[1_500_000:1_500_007] == b"changed"


def test_ids_of_version_1_are_what_they_always_were() -> None:
    """Written down so that a change of the derivation cannot go unnoticed even if it were made on both sides."""
    key = OwnerKey(KEY)
    hasher = key.content_hasher()
    digests = [key.chunk_id(b"x"), key.segment_id(b"x"), key.plain_id(b"x"), key.seal(b"x"), hasher.digest()]
    assert [digest.hex()[:16] for digest in digests] == [
        "5ca8e4d17b9f0a62",
        "787fc169739c006d",
        "46ea827a3d94e12b",
        "03f7f4d6a799e85a",
        "0bee476bc334cc3b",
    ]


def _manifest(store: FolderStore, root_key: str) -> Manifest:
    return load_manifest(StoreRemote(store), root_key=root_key, owner_key=KEY)
