"""The whole way as an agent goes it: presigned requests, a real HTTP server, a folder and a real S3 server behind it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshots.engine.compare import compare
from snapshots.engine.limits import Effort
from snapshots.engine.reader import read_file
from snapshots.engine.remote import PresignedRemote, new_session
from snapshots.engine.store import open_store
from snapshots.engine.store.base import Store
from tests.servers.folder_store import serve_folder
from tests.servers.seaweedfs import SeaweedFS
from tests.snapshots.engine.trees import manifest_of, noise, odd_tree, put, restore_of, take_of, verify_of

pytest_plugins = ["tests.servers.seaweedfs"]


@pytest.fixture(params=["folder", "s3"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "folder":
        with serve_folder(tmp_path / "objects") as store:
            yield store
        return
    server: SeaweedFS = request.getfixturevalue("seaweedfs")
    yield open_store(f"s3://{server.bucket}/{secrets.token_hex(6)}", **server.options)


@pytest.fixture
def remote(served: Store) -> Iterator[PresignedRemote]:
    with new_session(streams=8) as session:
        yield PresignedRemote(
            lambda plans: [
                served.put_request(plan.key, length=plan.length, sha256=plan.sha256, ttl_s=60)
                for plan in plans
            ],
            lambda keys: [served.get_request(key, ttl_s=60) for key in keys],
            session=session,
        )


def test_a_workspace_goes_up_is_verified_and_comes_back_twice(
    served: Store, remote: PresignedRemote, workspace: Path, target: Path
) -> None:
    odd_tree(workspace)
    put(workspace / "weights.bin", noise(20_000_000))
    effort = Effort(streams=8, pack_bytes=4 << 20)
    first = take_of(workspace, remote, effort=effort)
    assert first.new_packs >= 5
    verified = verify_of(served, first)
    assert verified.content_id == first.content_id
    restored = restore_of(target, remote, expected_content_id=first.content_id, effort=effort)
    assert restored.content_id == first.content_id
    assert compare(workspace, target) == []

    put(target / "result.txt", b"made on the second box")
    second = take_of(target, remote, "s_2", parent=manifest_of(remote), effort=effort)
    assert second.stored_bytes < 50_000
    verify_of(served, second)
    restore_of(target.parent / "third", remote, second.root_key, effort=effort)
    assert compare(target, target.parent / "third") == []
    assert (
        b"".join(read_file(manifest_of(remote, second.root_key), b"result.txt")) == b"made on the second box"
    )
