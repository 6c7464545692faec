"""What becomes of each file that a job leaves, whatever goes wrong in the middle of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent import artifacts, wire
from agent.artifacts import Found, Outcome, Upload
from snapshots.engine.errors import Cancelled
from snapshots.engine.store.base import StoreBusy

KEEP = wire.Keep(
    globs=("**",), key_prefix="j/o_1/d_1/", files_at_most=10, file_bytes=1_000, total_bytes=1_000
)


class Line:
    """Takes everything but the bytes `refused`, which make it raise `error`."""

    def __init__(self, *, refused: bytes = b"", error: BaseException | None = None) -> None:
        self.refused, self.error = refused, error
        self.reported: list[str] = []

    def remote(self, *, phase: str) -> Line:
        return self

    def put(self, plan: Any, data: bytes) -> None:
        if data == self.refused and self.error is not None:
            raise self.error

    def post(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        self.reported += [file["path"] for file in body["artifacts"]]
        return {}


def upload(folder: Path, line: Any, *, stopped: bool = False) -> Outcome:
    for name in "abc":
        (folder / name).write_text(name)
    outcome = Outcome()
    found = [Found(name, name, 1) for name in "abc"]
    Upload(line, folder, KEEP, outcome, fence=1, stopped=lambda: stopped).run(found)
    return outcome


def test_a_thread_that_dies_of_anything_fails_its_file_and_no_other(tmp_path: Path) -> None:
    line = Line(refused=b"b", error=ZeroDivisionError("a fault of ours"))
    outcome = upload(tmp_path, line)
    assert outcome.failed == [("b", "the agent failed: ZeroDivisionError")]
    assert sorted(line.reported) == ["a", "c"] and outcome.files == 2


def test_a_store_that_stays_away_fails_what_waits_without_asking_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "STREAMS", 1)
    outcome = upload(tmp_path, Line(refused=b"a", error=StoreBusy("the store answered 503")))
    assert outcome.failed == [("a", "the store answered 503")] and outcome.unsent == ["b", "c"]
    assert outcome.as_result()["left_out_count"] == 3


def test_a_file_of_which_no_thread_has_said_anything_has_failed(tmp_path: Path) -> None:
    outcome = upload(tmp_path, Line(refused=b"b", error=Cancelled("nobody had asked for that")))
    assert [path for path, _ in outcome.failed] + outcome.unsent != []
    assert outcome.files + len(outcome.failed) + len(outcome.unsent) == 3


def test_what_was_not_sent_when_it_was_cut_short_is_counted_as_left_out(tmp_path: Path) -> None:
    outcome = upload(tmp_path, Line(refused=b"b", error=Cancelled("cut short")), stopped=True)
    assert outcome.stopped and not outcome.failed
    said = outcome.as_result()
    assert said["left_out_count"] == len(outcome.unsent) == 3 - outcome.files
    assert {"path": "b", "why": "its upload was cut short"} in said["left_out"]


def test_a_file_that_vanishes_while_they_are_looked_for_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stays").write_text("x")
    monkeypatch.setattr(
        artifacts, "_matching", lambda *_: iter([("gone", "gone", ""), ("stays", "stays", "")])
    )
    outcome = Outcome()
    assert [one.path for one in artifacts._chosen(tmp_path, KEEP, outcome)] == ["stays"]
    assert outcome.left_out == [("gone", "it cannot be read: No such file or directory")]


@pytest.mark.parametrize(("sent", "mode"), [(0, 0), (None, 0o644), (0o755, 0o755)])
def test_a_mode_is_taken_as_it_is_also_one_without_any_right(sent: int | None, mode: int) -> None:
    file = {"path": "x", "data": "", "mode": sent}
    assert wire.GivenFile.from_json({k: v for k, v in file.items() if v is not None}).mode == mode
