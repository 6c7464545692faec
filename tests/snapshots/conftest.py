from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.snapshots.rows import folder_store


@pytest.fixture
def store_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    yield from folder_store(monkeypatch, tmp_path)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A few files, one of them in two blocks."""
    folder = tmp_path / "workspace"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "notes.txt").write_text("one line\n")
    (folder / "big.bin").write_bytes(bytes(range(256)) * 8192)
    (folder / "latest").symlink_to("big.bin")
    return folder
