"""restic, as it comes: encrypted, zstd auto."""

from __future__ import annotations

from pathlib import Path

from benchmarks.snapshots.process import Run
from benchmarks.snapshots.tools.base import Tool, first_line


class Restic(Tool):
    name = "restic"

    def at(self, home: Path) -> Restic:
        return Restic(home)

    def version(self) -> str:
        return " ".join(first_line(["restic", "version"]).split()[:2])

    def prepare(self) -> None:
        self.home.mkdir(parents=True)
        self._restic("init")

    def take(self, workspace: Path) -> Run:
        # Relative: a snapshot of the same folder finds its parent, and a restore needs no path above it.
        return self._restic("backup", ".", cwd=workspace)

    def restore(self, target: Path) -> Run:
        return self._restic("restore", "latest", "--target", str(target))

    def _restic(self, *words: str, cwd: Path | None = None) -> Run:
        return self._run(
            ["restic", "--quiet", "--cache-dir", str(self.home / "cache"), *words],
            cwd=cwd,
            RESTIC_REPOSITORY=str(self.repo),
            RESTIC_PASSWORD="benchmark",
        )
