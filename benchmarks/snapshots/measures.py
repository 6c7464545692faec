"""The course of the benchmark: each measure for all tools in turn, round by round, so that nobody gets the quiet hour."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.snapshots.compare import compare
from benchmarks.snapshots.process import Run
from benchmarks.snapshots.tools.base import Tool
from benchmarks.snapshots.workspace.second import work_a_day

FIRST, SECOND, UNCHANGED, NEW_BOX = "first", "second", "unchanged", "new box"
TO_MEMORY, TO_DISK = "restore to memory", "restore to disk"
MEASURES = (FIRST, SECOND, UNCHANGED, TO_MEMORY, TO_DISK, NEW_BOX)


class Result(NamedTuple):
    """Medians of the rounds; rss_bytes is the highest. stored_bytes: what this snapshot added to the repository."""

    wall_s: float
    cpu_s: float
    rss_bytes: int
    stored_bytes: int
    others_cores: float
    rounds: int


@dataclass
class Results:
    by_measure: dict[str, dict[str, list[tuple[Run, int]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    differences: dict[str, list[str]] = field(default_factory=dict)

    def add(self, measure: str, tool: Tool, run: Run, stored_bytes: int = 0) -> None:
        self.by_measure[measure][tool.name].append((run, stored_bytes))
        print(
            f"  {measure:18} {tool.name:20} {run.wall_s:7.2f} s  {run.cpu_s:7.2f} CPU-s  {run.rss_bytes / 1e6:6.0f} MB"
            f"  others {run.others_cores:.1f}",
            flush=True,
        )

    def of(self, measure: str, tool: str) -> Result | None:
        rows = self.by_measure.get(measure, {}).get(tool)
        if not rows:
            return None
        return Result(
            statistics.median(run.wall_s for run, _ in rows),
            statistics.median(run.cpu_s for run, _ in rows),
            max(run.rss_bytes for run, _ in rows),
            int(statistics.median(stored for _, stored in rows)),
            statistics.median(run.others_cores for run, _ in rows),
            len(rows),
        )


class Course:
    """workspace: a tree in state 1 on a disk; memory: an empty folder on a tmpfs. Both are changed."""

    def __init__(
        self,
        workspace: Path,
        memory: Path,
        tools: list[Tool],
        *,
        rounds: int,
        scale: float,
        rest_s: float,
    ) -> None:
        self.results = Results()
        self._workspace = workspace
        self._memory = memory
        self._tools = tools
        self._rounds = rounds
        self._scale = scale
        self._rest_s = rest_s

    def run(self, measures: Iterable[str]) -> Results:
        """Measures that later ones stand on are taken too, once."""
        wanted = set(measures)
        last = max(MEASURES.index(measure) for measure in wanted)
        for measure in MEASURES[: last + 1]:
            rounds = self._rounds if measure in wanted else 1 if measure in (FIRST, SECOND) else 0
            if measure == SECOND:
                work_a_day(self._workspace, scale=self._scale)
            if measure in (FIRST, SECOND):
                # Nobody hibernates in the second in which he has saved: what is on its way to the disk gets there first.
                settle()
                time.sleep(self._rest_s)
            if measure == NEW_BOX:
                rounds = 0  # with the restore to disk, from whose tree it goes on
            if measure == TO_DISK and NEW_BOX in wanted:
                rounds = self._rounds
            for number in range(rounds):
                for at, tool in enumerate(self._tools):
                    self._tools[at] = self._once(measure, tool, number, new_box=NEW_BOX in wanted)
        return self.results

    def _once(self, measure: str, tool: Tool, number: int, *, new_box: bool) -> Tool:
        settle()
        if measure == FIRST:
            tool.drop()
            tool.prepare()
            self._take(measure, tool, before=tool.stored_bytes())
        elif measure in (SECOND, UNCHANGED):
            return self._again(measure, tool, last=number == self._rounds - 1)
        elif measure == TO_MEMORY:
            target = self._memory / "workspace"
            self.results.add(measure, tool, tool.restore(target))
            self._look(measure, tool, target, self._workspace, number)
            shutil.rmtree(target)
        else:
            self._move_house(tool, number, new_box=new_box)
        return tool

    def _take(self, measure: str, tool: Tool, *, before: int) -> None:
        run = tool.take(self._workspace)
        self.results.add(measure, tool, run, tool.stored_bytes() - (0 if tool.whole_each_time else before))

    def _again(self, measure: str, tool: Tool, *, last: bool) -> Tool:
        """On a clone of the state before, of which the last one is kept for what comes next."""
        if tool.whole_each_time and measure == UNCHANGED:
            return tool
        clone = tool.clone(tool.home.with_name(f"{tool.home.name}+"))
        self._take(measure, clone, before=tool.stored_bytes())
        if not last:
            clone.drop()
            return tool
        tool.drop()
        return clone

    def _move_house(self, tool: Tool, number: int, *, new_box: bool) -> None:
        """Restore to the workspace's own place, as a new machine does, and take the next snapshot there."""
        original = self._workspace.with_name("original")
        self._workspace.rename(original)
        try:
            self.results.add(TO_DISK, tool, tool.restore(self._workspace))
            self._look(TO_DISK, tool, self._workspace, original, number)
            if new_box and not tool.whole_each_time:
                settle()
                clone = tool.clone(tool.home.with_name(f"{tool.home.name}-new-box"))
                self._take(NEW_BOX, clone, before=tool.stored_bytes())
                clone.drop()
        finally:
            shutil.rmtree(self._workspace, ignore_errors=True)
            original.rename(self._workspace)

    def _look(self, measure: str, tool: Tool, target: Path, original: Path, number: int) -> None:
        """Once a tool and place: reading everything twice is dear."""
        if number:
            return
        found = compare(original, target)
        lost = f", {found.sparse_lost} files less sparse" if found.sparse_lost else ""
        shown = [f"{found.count} of {found.compared} entries differ{lost}", *found.names]
        self.results.differences[f"{tool.name}, {measure}"] = shown
        print(f"  {'compared':18} {tool.name:20} {shown[0]}", flush=True)


def settle() -> None:
    """Nobody pays for what another wrote."""
    subprocess.run(["sync"], check=True)


Maker = Callable[[Path], Tool]
