"""This engine, in a process of its own, as the agent would run it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.snapshots.process import Run
from benchmarks.snapshots.tools.base import Tool


class Dormouse(Tool):
    name = "dormouse"

    def __init__(self, home: Path, *, encrypted: bool = False) -> None:
        super().__init__(home)
        self.encrypted = encrypted
        self.name = "dormouse, encrypted" if encrypted else "dormouse"

    def at(self, home: Path) -> Dormouse:
        return Dormouse(home, encrypted=self.encrypted)

    def version(self) -> str:
        return "this engine"

    def prepare(self) -> None:
        self.repo.mkdir(parents=True)

    def take(self, workspace: Path) -> Run:
        return self._engine("take", workspace, *(["--encrypt"] if self.encrypted else []))

    def restore(self, target: Path) -> Run:
        return self._engine("restore", target)

    def _engine(self, verb: str, tree: Path, *flags: str) -> Run:
        module = "benchmarks.snapshots.dormouse_run"
        ran = self._run([sys.executable, "-m", module, verb, str(tree), str(self.home), *flags])
        return ran._replace(output=json.dumps(json.loads(ran.output.strip().split("\n")[-1])))
