"""The processes of one local box: their log is bounded, also while the box is removed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hibernation.providers import local_keeper
from hibernation.providers.local_keeper import LOG_FILE, Keeper


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keeper:
    monkeypatch.setattr(local_keeper, "LOG_LIMIT_BYTES", 10)
    return Keeper(tmp_path, mark="host:box", command=["true"], grace_s=1.0)


def test_a_log_that_is_full_begins_anew_and_what_was_said_is_beside_it(keeper: Keeper) -> None:
    log = keeper.box_folder / LOG_FILE
    log.write_text("said before")
    keeper.trim_log()
    assert (log.read_text(), log.with_name(f"{LOG_FILE}.1").read_text()) == ("", "said before")
    log.write_text("short")
    keeper.trim_log()
    assert log.read_text() == "short"


def test_a_box_that_is_removed_meanwhile_has_no_log_to_trim(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    (keeper.box_folder / LOG_FILE).write_text("said before")
    copy = shutil.copyfile

    def removed(source: Path, target: Path) -> None:
        shutil.rmtree(keeper.box_folder)
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", removed)
    keeper.trim_log()
    keeper.trim_log()
    assert not keeper.box_folder.exists()
