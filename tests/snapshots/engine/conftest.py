"""A store in a folder, a workspace beside it, and the privileges that a test may need."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapshots.engine.store.folder import FolderStore


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
