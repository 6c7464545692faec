"""The demo's own comparison sees every kind of difference that a wake could leave."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from config.launcher.demo import tree


@pytest.fixture
def before(tmp_path: Path) -> Path:
    made = tmp_path / "before"
    made.mkdir()
    (made / "file").write_bytes(b"bytes")
    os.link(made / "file", made / "second name")
    os.symlink("file", made / "link")
    (made / "folder").mkdir()
    return made


def copy_of(before: Path) -> Path:
    """Bit-exact but for hard links, which a plain copy turns into two files."""
    copied = before.with_name("after")
    shutil.copytree(before, copied, symlinks=True)
    return copied


def linked_copy_of(before: Path) -> Path:
    copied = copy_of(before)
    (copied / "second name").unlink()
    os.link(copied / "file", copied / "second name")
    return copied


def test_an_exact_copy_has_no_difference(before: Path) -> None:
    after = linked_copy_of(before)
    shutil.copystat(before / "folder", after / "folder")
    assert tree.differences(tree.look(before), tree.look(after)) == []
    assert len(tree.files_of(tree.look(after))) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda after: (after / "file").write_bytes(b"bytex"),
        lambda after: (after / "file").chmod(0o600),
        lambda after: os.utime(after / "file", ns=(0, 1)),
        lambda after: (after / "file").unlink(),
        lambda after: (after / "more").touch(),
        lambda after: ((after / "link").unlink(), os.symlink("elsewhere", after / "link")),
        lambda after: ((after / "second name").unlink(), shutil.copy2(after / "file", after / "second name")),
    ],
    ids=["content", "mode", "mtime", "missing", "new", "link", "hard link"],
)
def test_each_difference_is_seen(before: Path, change) -> None:
    after = linked_copy_of(before)
    change(after)
    assert tree.differences(tree.look(before), tree.look(after))
