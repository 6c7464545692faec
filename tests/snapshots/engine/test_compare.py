"""The judge of all restores notices every kind of difference."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from snapshots.engine.compare import compare
from tests.snapshots.engine.trees import noise, odd_tree, put, sparse, supports_xattrs

Change = Callable[[Path], object]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal trees, the second made by cp."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    odd_tree(first)
    subprocess.run(["cp", "-a", "--sparse=always", str(first), str(second)], check=True)
    return first, second


def test_a_faithful_copy_has_no_difference(pair: tuple[Path, Path]) -> None:
    assert compare(*pair) == []


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("bytes", lambda t: keep_time(t / "plain.txt", lambda p: p.write_bytes(b"jello\n" * 100))),
        ("size", lambda t: keep_time(t / "plain.txt", lambda p: p.write_bytes(b"x"))),
        ("mode", lambda t: os.chmod(t / "setuid", 0o755)),
        ("mtime", lambda t: os.utime(t / "plain.txt", ns=(0, os.stat(t / "plain.txt").st_mtime_ns + 1))),
        ("mtime", lambda t: os.utime(t / "link", ns=(0, 1), follow_symlinks=False)),
        ("mtime", lambda t: os.utime(t, ns=(0, 1))),
        ("target", lambda t: replace_link(t / "dangling", "elsewhere")),
        ("missing", lambda t: (t / "empty").unlink()),
        ("extra", lambda t: (t / "more").touch()),
        ("kind", lambda t: ((t / "empty").unlink(), (t / "empty").mkdir())),
        ("links", lambda t: unlink_twin(t / "one/second")),
        ("blocks", lambda t: keep_time(t / "only-a-hole", lambda p: p.write_bytes(bytes(4_000_000)))),
        ("owner", lambda t: os.chown(t / "plain.txt", 12, 34)),
    ],
)
def test_every_kind_of_difference_is_found(pair: tuple[Path, Path], what: str, change: Change) -> None:
    first, second = pair
    if what == "owner" and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    change(second)
    found = compare(first, second)
    assert what in {difference.what for difference in found}
    assert all(str(difference) for difference in found)


def test_a_lost_attribute_is_found(pair: tuple[Path, Path]) -> None:
    first, second = pair
    if not supports_xattrs(second):
        pytest.skip("this file system has no user attributes")
    os.removexattr(second / "attributes", "user.empty")
    assert [difference.what for difference in compare(first, second)] == ["xattrs"]


def test_what_is_to_be_ignored_or_left_out_is(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / name / "same", b"x", mtime_ns=1)
        put(tmp_path / name / name, b"only here")
    times = frozenset({"mtime"})
    assert len(compare(tmp_path / "a", tmp_path / "b", ignore=times)) == 2
    assert compare(tmp_path / "a", tmp_path / "b", ignore=times, leave_out=frozenset({b"a", b"b"})) == []


def test_a_less_sparse_copy_is_tolerated_within_the_slack(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        sparse(tmp_path / name / "map", 10_000_000, {5_000_000: noise(1_000_000)})
        os.utime(tmp_path / name / "map", ns=(0, 0))
        os.utime(tmp_path / name, ns=(0, 0))
    with (tmp_path / "b/map").open("r+b") as file:
        file.write(bytes(30_000))
    os.utime(tmp_path / "b/map", ns=(0, 0))
    assert compare(tmp_path / "a", tmp_path / "b") == []


def keep_time(path: Path, change: Change) -> None:
    before = os.stat(path)
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_link(path: Path, target: str) -> None:
    path.unlink()
    os.symlink(target, path)


def unlink_twin(path: Path) -> None:
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)
