"""tar through zstd with all cores: what people do by hand. It starts over each time."""

from __future__ import annotations

from pathlib import Path

from benchmarks.snapshots.process import Run
from benchmarks.snapshots.tools.base import Tool, first_line

_FLAGS = "--format=posix --sparse --xattrs --acls --numeric-owner"


class Tar(Tool):
    whole_each_time = True

    def __init__(self, home: Path, *, level: int) -> None:
        super().__init__(home)
        self.level = level
        self.name = f"tar+zstd-{level}"

    def at(self, home: Path) -> Tar:
        return Tar(home, level=self.level)

    def version(self) -> str:
        return first_line(["tar", "--version"])

    def prepare(self) -> None:
        self.repo.mkdir(parents=True)

    def take(self, workspace: Path) -> Run:
        pipe = f'set -o pipefail; tar -C "$1" {_FLAGS} -cf - . | zstd -q -{self.level} -T0 -f -o "$2"'
        return self._bash(pipe, str(workspace), str(self.repo / "latest.tar.zst"))

    def restore(self, target: Path) -> Run:
        pipe = f'set -o pipefail; mkdir "$1"; zstd -q -dc "$2" | tar -C "$1" {_FLAGS} -p --same-owner -xf -'
        return self._bash(pipe, str(target), str(self.repo / "latest.tar.zst"))

    def clone(self, home: Path) -> Tar:
        """Nothing is kept between two snapshots but the archive, which a second session writes anew."""
        fresh = self.at(home)
        fresh.drop()
        fresh.prepare()
        (fresh.repo / "latest.tar.zst").hardlink_to(self.repo / "latest.tar.zst")
        return fresh

    def _bash(self, pipe: str, *words: str) -> Run:
        # A new file each time: the old one may be linked from another home.
        fresh = 'rm -f "$2"; ' if " -cf " in pipe else ""
        return self._run(["bash", "-c", fresh + pipe, "bash", *words])
