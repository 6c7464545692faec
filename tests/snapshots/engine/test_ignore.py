"""What is left out is what the rules say, nothing else; and the report names it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snapshots.engine.errors import SnapshotRefused
from snapshots.engine.ignore import CACHES, Ignore
from snapshots.engine.reader import iter_entries
from snapshots.engine.store.base import Store
from tests.snapshots.engine.trees import manifest_of, put, take_of, verify_of


@pytest.mark.parametrize(
    ("rules", "path", "is_folder", "left_out"),
    [
        ("*.log", "train.log", False, True),
        ("*.log", "deep/down/train.log", False, True),
        ("*.log", "train.log.gz", False, False),
        ("/build", "build", True, True),
        ("/build", "src/build", True, False),
        ("build/", "build", False, False),
        ("build/", "src/build", True, True),
        ("data/raw", "data/raw", True, True),
        ("data/raw", "more/data/raw", True, False),
        ("data/*.bin", "data/a.bin", False, True),
        ("data/*.bin", "data/a/b.bin", False, False),
        ("data/**/x", "data/x", False, True),
        ("data/**/x", "data/a/b/x", False, True),
        ("**/tmp", "a/b/tmp", True, True),
        ("tmp/**", "tmp/anything/at/all", False, True),
        ("tmp/**", "tmp", True, False),
        ("run-?", "run-1", True, True),
        ("run-?", "run-12", True, False),
        ("run-[0-3]", "run-2", True, True),
        ("run-[!0-3]", "run-2", True, False),
        ("run-[!0-3]", "run-7", True, True),
        ("*.pt\n!best.pt", "last.pt", False, True),
        ("*.pt\n!best.pt", "models/best.pt", False, False),
        ("!best.pt\n*.pt", "best.pt", False, True),
        ("# *.pt", "a.pt", False, False),
        ("\\#name", "#name", False, True),
        ("a.b", "axb", False, False),
        ("[", "[", False, True),
        ("", "anything", False, False),
    ],
)
def test_rules_mean_what_they_mean_to_git(rules: str, path: str, is_folder: bool, left_out: bool) -> None:
    ignore = Ignore(rules.encode().splitlines())
    assert (ignore.rule_for(path.encode(), is_folder=is_folder) is not None) is left_out


def test_bytes_that_are_no_text_are_matched_as_bytes() -> None:
    assert Ignore([b"caf\xe9*"]).rule_for(b"x/caf\xe9-1", is_folder=False) == b"caf\xe9*"


def test_what_a_rule_leaves_out_is_not_in_the_snapshot_and_is_told(store: Store, workspace: Path) -> None:
    put(workspace / ".dormouseignore", b"*.tmp\n/scratch/\n!keep.tmp\n")
    for name in ("a.tmp", "keep.tmp", "scratch/huge", "sub/scratch/kept", "plain"):
        put(workspace / name, b"x")
    taken = take_of(workspace, store, ignore=())
    kept = {entry.path for entry in iter_entries(manifest_of(store))}
    assert kept == {b".dormouseignore", b"keep.tmp", b"plain", b"sub", b"sub/scratch", b"sub/scratch/kept"}
    assert [(found.path, found.rule) for found in taken.left_out] == [
        (b"a.tmp", b"*.tmp"),
        (b"scratch", b"/scratch/"),
    ]
    verify_of(store, taken)


def test_caches_are_left_out_where_asked_and_a_user_can_take_that_back(store: Store, workspace: Path) -> None:
    put(workspace / "src/__pycache__/a.pyc", b"x")
    put(workspace / ".cache/pip/http/a", b"x")
    put(workspace / ".cache/huggingface/hub/model", b"dear")
    put(workspace / ".dormouseignore", b"!__pycache__/\n")
    taken = take_of(workspace, store, ignore=CACHES)
    assert [found.path for found in taken.left_out] == [b".cache/pip"]
    assert manifest_of(store).find(b".cache/huggingface/hub/model") is not None


def test_without_being_asked_nothing_is_left_out(store: Store, workspace: Path) -> None:
    put(workspace / ".dormouseignore", b"*\n")
    put(workspace / "__pycache__/a.pyc", b"x")
    assert take_of(workspace, store).files == 2


def test_a_rules_file_that_is_a_symlink_or_too_long_is_refused_by_name(store: Store, workspace: Path) -> None:
    put(workspace / ".dormouseignore", b"x\n" * 200_000)
    with pytest.raises(SnapshotRefused, match="dormouseignore: is longer"):
        take_of(workspace, store, ignore=())
    (workspace / ".dormouseignore").unlink()
    os.symlink("/etc/passwd", workspace / ".dormouseignore")
    with pytest.raises(SnapshotRefused, match="dormouseignore: cannot be read"):
        take_of(workspace, store, ignore=())
