"""An agent is an ordinary user's process: what works without root, and what is said about the rest."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from snapshots.engine.compare import compare
from snapshots.engine.errors import FileUnreadable, RestoreRefused
from snapshots.engine.store.folder import FolderStore
from tests.snapshots.engine.forge import file, folder, forge
from tests.snapshots.engine.trees import odd_tree, put, restore_of, take_of, verify_of


def test_one_of_everything_that_the_user_can_read_comes_back_identical(ordinary_user: Path) -> None:
    workspace, target = ordinary_user / "workspace", ordinary_user / "back"
    workspace.mkdir()
    odd_tree(workspace)
    os.chmod(workspace / "locked", 0o400)
    store = FolderStore(ordinary_user / "objects")
    taken = take_of(workspace, store)
    verify_of(store, taken)
    restored = restore_of(target, store)
    assert compare(workspace, target) == []
    assert restored.content_id == taken.content_id
    assert restored.warnings == ()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_the_user_cannot_read_is_refused_by_name(ordinary_user: Path, kind: str) -> None:
    workspace = ordinary_user / "workspace"
    put(workspace / "sub/fine", b"x")
    if kind == "file":
        put(workspace / "sub/secret", b"x", mode=0o000)
    else:
        put(workspace / "sub/secret/inside", b"x")
        os.chmod(workspace / "sub/secret", 0o000)
    with pytest.raises(
        FileUnreadable, match=r"sub/secret: cannot be read \(Permission denied\): let the agent read it"
    ) as caught:
        take_of(workspace, FolderStore(ordinary_user / "objects"))
    assert caught.value.path == b"sub/secret"


def test_files_of_other_owners_become_the_users_own_with_a_warning(ordinary_user: Path) -> None:
    store = FolderStore(ordinary_user / "objects")
    entries = [
        folder(b"a"),
        file(b"a/one")._replace(uid=4_000, gid=4_000),
        file(b"two")._replace(mode=0o4755),
    ]
    restored = restore_of(ordinary_user / "back", store, forge(store, entries))
    (warning,) = restored.warnings
    assert "belong to the user who restores" in warning
    assert os.stat(ordinary_user / "back/a/one").st_uid == os.geteuid()


def test_modes_that_shut_the_user_out_are_restored_all_the_same(ordinary_user: Path) -> None:
    store = FolderStore(ordinary_user / "objects")
    closed = file(b"a/closed")._replace(mode=0)
    entries = [
        folder(b"a")._replace(mode=0o500),
        closed,
        folder(b"a/sealed")._replace(mode=0),
        file(b"a/sealed/x"),
    ]
    restore_of(ordinary_user / "back", store, forge(store, entries))
    assert stat.S_IMODE(os.stat(ordinary_user / "back/a/closed").st_mode) == 0
    assert stat.S_IMODE(os.stat(ordinary_user / "back/a/sealed").st_mode) == 0


def test_a_target_in_a_folder_that_is_not_the_users_is_refused(ordinary_user: Path) -> None:
    store = FolderStore(ordinary_user / "objects")
    root_key = forge(store, [file(b"a")])
    (ordinary_user / "sealed").mkdir()
    os.chmod(ordinary_user / "sealed", 0o500)
    with pytest.raises(RestoreRefused, match="Permission denied"):
        restore_of(ordinary_user / "sealed/back", store, root_key)
