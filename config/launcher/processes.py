"""Starts programs, waits until they answer, notices their end, and stops them in order."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from types import FrameType

from config.launcher.kernel import die_with_parent, reap_orphans

LOOK_EVERY_S = 0.05
STOP_WITHIN_S = 10.0
LOG_TAIL_BYTES = 3000
LOG_KEEP_BYTES = 20 * 1024 * 1024
"""A log that is larger at a start is put aside as `<name>.log.1`."""


class Stage(IntEnum):
    """Who stops first. Agents say good-bye through the gateway; Celery puts unfinished messages back into Valkey."""

    AGENTS = 1
    SERVERS = 2
    BROKER = 3


class StopAsked(Exception):
    """A person, or the end of the front process, asked to stop."""


class Failed(Exception):
    """A program did not start, or ended on its own. The text says which, why, and where its log is."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to run. name: of its log too. server: whether nothing works without it (an agent may die: that is
    the product's business). env: whole, not an addition to ours."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    stage: Stage = Stage.SERVERS
    server: bool = True


@dataclass
class Child:
    program: Program
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int
    reported: bool = False

    def said(self) -> bytes:
        """What it has written to its log since it was started."""
        with self.log.open("rb") as file:
            file.seek(self.log_start)
            return file.read()


@dataclass
class Supervisor:
    """The children of one launcher. `stop_asked` counts the requests to stop: the second one kills."""

    cwd: Path
    logs: Path
    children: list[Child] = field(default_factory=list)
    stop_asked: int = 0

    def watch_signals(self) -> None:
        """From now on SIGTERM and SIGINT count as requests to stop."""

        def count(number: int, frame: FrameType | None) -> None:
            self.stop_asked += 1

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, count)

    def start(self, program: Program, *, stdout: int | None = None) -> Child:
        """Start it in a session of its own, its output into its log; `stdout` may take standard output elsewhere."""
        self.logs.mkdir(parents=True, exist_ok=True)
        path = self.logs / f"{program.name}.log"
        if path.exists() and path.stat().st_size > LOG_KEEP_BYTES:
            path.replace(path.with_name(path.name + ".1"))
        ours = os.getpid()

        def before_exec() -> None:
            os.setsid()
            die_with_parent(signal.SIGTERM, parent=ours)

        with path.open("ab") as log:
            start = log.tell()
            try:
                process = subprocess.Popen(
                    list(program.command),
                    cwd=self.cwd,
                    env=dict(program.env),
                    stdin=subprocess.DEVNULL,
                    stdout=log if stdout is None else stdout,
                    stderr=log,
                    preexec_fn=before_exec,
                )
            except OSError as error:
                raise Failed(f"{program.name} cannot be started: {error}") from error
        child = Child(program, process, path, start)
        self.children.append(child)
        return child

    def run(self, program: Program, *, limit_s: float) -> bytes:
        """Start it, wait for its end, return its standard output. Raises Failed where it does not end with 0."""
        child = self.start(replace(program, server=False), stdout=subprocess.PIPE)
        assert child.process.stdout is not None
        self.wait_until(child, lambda: child.process.poll() is not None, limit_s=limit_s)
        self.children.remove(child)
        output = child.process.stdout.read()
        child.process.stdout.close()
        if child.process.returncode:
            raise Failed(
                f"{program.name} ended with {_how(child.process.returncode)}:\n{_tail(child.said() + output)}"
            )
        return output

    def wait_until(
        self, child: Child, ready: Callable[[], bool], *, limit_s: float, every_s: float = LOOK_EVERY_S
    ) -> None:
        """Return when `ready()`, asked every_s, holds. Raises Failed when the child ends first or the time is up."""
        deadline = time.monotonic() + limit_s
        while not ready():
            if self.stop_asked:
                raise StopAsked
            if child.process.poll() is not None and not ready():
                raise Failed(
                    f"{child.program.name} ended with {_how(child.process.returncode)} {_log(child)}"
                )
            if time.monotonic() > deadline:
                raise Failed(f"{child.program.name} was not ready within {limit_s:g} s {_log(child)}")
            self.look()
            time.sleep(every_s)

    def look(self) -> list[Child]:
        """Collect who has ended; return those whose end was not told before. Raises Failed for a server."""
        for child in self.children:
            child.process.poll()
        reap_orphans({child.process.pid for child in self.children if child.process.returncode is None})
        news = [
            child for child in self.children if child.process.returncode is not None and not child.reported
        ]
        for child in news:
            child.reported = True
            if child.program.server:
                raise Failed(
                    f"{child.program.name} ended with {_how(child.process.returncode)} {_log(child)}"
                )
        return news

    def stop(self) -> list[str]:
        """Stop stage after stage, each with STOP_WITHIN_S before it is killed; the names of those that had to be."""
        killed: list[str] = []
        before = self.stop_asked
        for stage in Stage:
            group = [child for child in self.children if child.program.stage is stage]
            for child in group:
                if child.process.poll() is None:
                    child.process.terminate()
            deadline = time.monotonic() + STOP_WITHIN_S
            while time.monotonic() < deadline and self.stop_asked <= before:
                if all(child.process.poll() is not None for child in group):
                    break
                time.sleep(LOOK_EVERY_S)
            for child in group:
                if child.process.poll() is None:
                    killed.append(child.program.name)
                _kill_group(child)
        return killed


def _kill_group(child: Child) -> None:
    """Whoever is left in the child's process group, itself included."""
    # macOS says EPERM for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _log(child: Child) -> str:
    return f"({child.log}):\n{_tail(child.said())}"


def _tail(output: bytes) -> str:
    text = output[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
    return "\n".join(f"    {line}" for line in text.splitlines()) or "    (it said nothing)"
