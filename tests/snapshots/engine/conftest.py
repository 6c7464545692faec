"""A store in a folder, a workspace beside it, and the privileges that a test may need."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshots.engine.store.folder import FolderStore

NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "objects")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where a restore goes. Does not exist yet."""
    return tmp_path / "back" / "workspace"


@pytest.fixture
def ordinary_user() -> Iterator[Path]:
    """An empty folder that belongs to a user without privileges, who is who we are until the test ends."""
    folder = Path(tempfile.mkdtemp(prefix="dormouse-"))
    was_root = os.geteuid() == 0
    if was_root:
        os.chown(folder, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if was_root:
            os.seteuid(0)
            os.setegid(0)
        subprocess.run(["chmod", "-R", "u+rwX", str(folder)], check=False)
        shutil.rmtree(folder)
