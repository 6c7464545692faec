"""borg with zstd level 1 and without encryption, its fastest sensible setting."""

from __future__ import annotations

from pathlib import Path

from benchmarks.snapshots.process import Run
from benchmarks.snapshots.tools.base import Tool, first_line


class Borg(Tool):
    name = "borg"

    def at(self, home: Path) -> Borg:
        return Borg(home)

    def version(self) -> str:
        return first_line(["borg", "--version"])

    def prepare(self) -> None:
        self.home.mkdir(parents=True)
        self._borg(["init", "--encryption", "none"])

    def take(self, workspace: Path) -> Run:
        return self._borg(["create", "--compression", "zstd,1", "::{now:%s.%f}", "."], cwd=workspace)

    def restore(self, target: Path) -> Run:
        target.mkdir()
        latest = self._borg(["list", "--short", "--last", "1"]).output.strip()
        return self._borg(["extract", "--sparse", f"::{latest}"], cwd=target)

    def _borg(self, words: list[str], *, cwd: Path | None = None) -> Run:
        return self._run(
            ["borg", *words],
            cwd=cwd,
            BORG_REPO=str(self.repo),
            BORG_BASE_DIR=str(self.home / "base"),
            BORG_RELOCATED_REPO_ACCESS_IS_OK="yes",
            BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes",
        )
