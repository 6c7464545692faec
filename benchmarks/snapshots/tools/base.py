"""The port: take, take again, restore."""

from __future__ import annotations

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

from benchmarks.snapshots.process import Run, run

LINKED_FROM_BYTES = 64 * 1024


class Tool(ABC):
    """home: everything that the tool keeps, its repository in home/repo."""

    name = ""
    whole_each_time = False
    """It knows no increments: the second session is a full one again."""

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def repo(self) -> Path:
        return self.home / "repo"

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def prepare(self) -> None:
        """Make an empty repository; not measured."""

    @abstractmethod
    def take(self, workspace: Path) -> Run: ...

    @abstractmethod
    def restore(self, target: Path) -> Run:
        """The latest snapshot into `target`, whose parent exists and which does not."""

    def stored_bytes(self) -> int:
        return sum(
            os.lstat(os.path.join(folder, name)).st_size
            for folder, _, names in os.walk(self.repo)
            for name in names
        )

    def clone(self, home: Path) -> Tool:
        """The same state under another folder. Large files are linked: none of the tools writes into one that is finished."""
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(self.home, home, symlinks=True, copy_function=_link_or_copy)
        return self.at(home)

    @abstractmethod
    def at(self, home: Path) -> Tool:
        """The same tool with another home."""

    def drop(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)

    def _run(self, command: list[str], *, cwd: Path | None = None, **env: str) -> Run:
        return run(command, env=env, cwd=cwd)


def first_line(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]


def _link_or_copy(source: str, target: str) -> str:
    if os.lstat(source).st_size >= LINKED_FROM_BYTES:
        os.link(source, target)
        return target
    return shutil.copy2(source, target)
