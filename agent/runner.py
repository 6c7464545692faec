"""One supervised child: started at most once, able to outlive the agent, ended with everything that it started.

A run's folder, `<state-dir>/jobs/<dispatch id>/`:

    pid      made by the wrapper, exclusively, before it runs anything: whoever makes this file owns the run
    exit     "exit N", written by the wrapper when the command has ended
    started  when, on the clock that goes on while the machine sleeps; what the time limit counts from
    verdict  outcome and reason, written by the agent before it ends the run itself
    log      standard output and error
    script   the job's script where it has one
    work     working folder of a job on a worker without a workspace
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import processes
from agent.errors import UsageError
from agent.files import read_json, write_json
from agent.processes import GraceLeft
from agent.session import boot_clock_s

# The command's words are the wrapper's positional arguments: nothing of them is ever read as shell. `trap :` keeps
# the wrapper alive through a SIGTERM to the group without making its child ignore it. Without noclobber (-C) two
# agents that do not know of each other could both start the run. A run is the first that the kernel should take
# when memory is short, not the agent. What the wrapper itself has to say ("Terminated") is not the job's output.
_WRAPPER = """\
trap : TERM INT HUP
run=$1; shift
set -C; echo $$ > "$run/pid" || exit 125; set +C
exec 3>&2 2>/dev/null
echo 500 > /proc/self/oom_score_adj
"$@" 2>&3 3>&-
code=$?
echo "exit $code" > "$run/exit"
exit "$code"
"""

NOT_BEGUN = 125
"""The wrapper's exit code where it could not take the run. A command may use it as well."""

__all__ = ["Command", "Ended", "GraceLeft", "Run", "WorkRefused", "clear", "find", "start"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOG_MODE = os.O_WRONLY | os.O_CREAT | os.O_APPEND


class WorkRefused(ValueError):
    """The work cannot be started as it was sent. The text is the reason that its owner reads."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is to run. Exactly one of argv and script. timeout_s None: no limit."""

    argv: tuple[str, ...]
    script: str | None
    env: Mapping[str, str]
    timeout_s: float | None
    grace_s: float

    @classmethod
    def from_work(cls, work: Mapping[str, Any]) -> Command:
        """Raises WorkRefused, naming the field."""
        argv, script, env = work.get("command"), work.get("script"), work.get("env") or {}
        if (argv is None) == (script is None):
            raise WorkRefused("give a command or a script, one of the two")
        if argv is not None and not (
            isinstance(argv, list) and argv and all(_is_word(word) for word in argv) and argv[0]
        ):
            raise WorkRefused("command must be a list of texts, the program first")
        if script is not None and not _is_word(script):
            raise WorkRefused("script must be text")
        if not isinstance(env, dict) or not all(_is_word(value) for value in env.values()):
            raise WorkRefused("env must be an object of texts")
        for name in env:
            if not _NAME.fullmatch(name):
                raise WorkRefused(
                    f"env name {name!r} is not a variable's name: letters, digits and _, no digit first"
                )
        return cls(
            argv=tuple(argv or ()),
            script=script,
            env=env,
            timeout_s=_seconds(work, "timeout_s"),
            grace_s=_seconds(work, "grace_s", default=10.0) or 0.0,
        )


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a child ended: its exit code as a shell counts (128 + signal), or None for one that vanished."""

    exit_code: int | None

    def reason(self) -> str | None:
        """One sentence where it did not succeed."""
        if self.exit_code is None:
            return "the process vanished without an exit code: the machine ran out of memory or of disk, or was restarted"
        if self.exit_code == 0:
            return None
        if self.exit_code > 128:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(self.exit_code - 128).name}"
        return f"exited with code {self.exit_code}"


class Run:
    """A child that this agent started, or found still there after a restart."""

    def __init__(self, folder: Path, *, mark: str, pid: int, child: subprocess.Popen[bytes] | None) -> None:
        self._folder = folder
        self._mark = mark
        self._child = child
        self.pid = pid
        # Found again: its number is trusted as a group only if the wrapper is alive and carries the mark now.
        self._trust_group = child is not None or processes.is_alive(pid, mark=mark)
        self._ended: Ended | None = None

    @property
    def was_found(self) -> bool:
        """Whether an earlier agent started it."""
        return self._child is None

    @property
    def log(self) -> Path:
        return self._folder / "log"

    @property
    def started_s(self) -> float | None:
        """When it was started, on the boot clock; None where an agent started it that did not write that down."""
        try:
            return float((self._folder / "started").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def poll(self) -> Ended | None:
        """None while it runs."""
        if self._ended is None:
            if self._child is not None:
                code = self._child.poll()
                if code is not None:
                    # The wrapper itself was killed: what it wrote, if anything, or the signal.
                    self._ended = self._written() or Ended(exit_code=code if code >= 0 else 128 - code)
                    if code == NOT_BEGUN and not self._has_begun():
                        self._ended = Ended(exit_code=None)
            elif (written := self._written()) is not None:
                self._ended = written
            elif not processes.is_alive(self.pid, mark=self._mark):
                # Between the two looks it may have written its last word.
                self._ended = self._written() or Ended(exit_code=None)
        return self._ended

    def decide(self, outcome: str, reason: str) -> None:
        """Write down what the run has come to before ending it: an agent that is killed meanwhile, and its child just
        after, would leave an exit code behind that looks like the command's own failure. A full disk is no obstacle.
        """
        with contextlib.suppress(OSError):
            write_json(self._folder / "verdict", {"outcome": outcome, "reason": reason})

    def decided(self) -> tuple[str, str] | None:
        """Outcome and reason where an agent had begun to end it."""
        with contextlib.suppress(UsageError):
            if (said := read_json(self._folder / "verdict")) is not None:
                return str(said["outcome"]), str(said["reason"])
        return None

    def end(self, *, grace_left_s: GraceLeft) -> bool:
        """End it with everything that it started, also what has left its group. False if something cannot be killed."""
        gone = processes.end(
            pgid=self.pid, mark=self._mark, trust_group=self._trust_group, grace_left_s=grace_left_s
        )
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=2.0)
        return gone

    def has_members(self) -> bool:
        return bool(processes.members(pgid=self.pid, mark=self._mark, trust_group=self._trust_group))

    def _has_begun(self) -> bool:
        """Has the wrapper written its number? Without room on the disk it makes the file and ends, and has run nothing."""
        try:
            with open(self._folder / "pid", "rb") as file:
                return file.read(20).endswith(b"\n")
        except FileNotFoundError:
            return False

    def _written(self) -> Ended | None:
        try:
            match = re.fullmatch(r"exit ([0-9]{1,3})\n", (self._folder / "exit").read_text(encoding="ascii"))
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        return Ended(exit_code=int(match[1])) if match else None


def start(
    command: Command, *, folder: Path, cwd: Path | None, environ: Mapping[str, str], own: Mapping[str, str]
) -> Run:
    """Start the command in a folder that holds no run yet, in its own session and process group.

    environ: what every child inherits; own: the agent's variables for this run, which the command's env cannot replace.
    Raises WorkRefused where there is nothing to start (no such program), OSError where this machine cannot start it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    cwd = cwd or folder / "work"
    mark = secrets.token_hex(8)
    (folder / "mark").write_text(mark, encoding="ascii")
    (folder / "started").write_text(f"{boot_clock_s():.3f}", encoding="ascii")
    env = {"PYTHONUNBUFFERED": "1", **environ, **command.env, **own, processes.MARK: mark}
    try:
        cwd.mkdir(parents=True, exist_ok=True)
        argv = _argv(command, folder=folder, cwd=cwd, path=env.get("PATH"))
        log = os.open(folder / "log", _LOG_MODE, 0o600)
        try:
            child = subprocess.Popen(
                ["/bin/sh", "-c", _WRAPPER, "sh", str(folder), *argv],
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)
    except OSError as error:
        if error.errno == errno.E2BIG:
            raise WorkRefused("its arguments and environment are larger than this system takes") from error
        raise
    return Run(folder, mark=mark, pid=child.pid, child=child)


def find(folder: Path) -> Run | None:
    """The run that an earlier agent started in this folder, or None where none was and none can be any more.

    The file `pid` decides: if we make it, a wrapper that is only just waking up will see that and do nothing.
    """
    if not folder.is_dir():
        return None
    pid_file = folder / "pid"
    try:
        os.close(os.open(pid_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        mark = (folder / "mark").read_text(encoding="ascii") if (folder / "mark").exists() else ""
        pid = _read_pid(pid_file, mark=mark)
        return None if pid is None else Run(folder, mark=mark, pid=pid, child=None)
    return None


def clear(folder: Path) -> None:
    """Make room for another start after `find` said None. What a wrapper wrote too late goes with the old folder."""
    if folder.exists():
        aside = folder.with_name(f"{folder.name}.void-{secrets.token_hex(4)}")
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _read_pid(path: Path, *, mark: str) -> int | None:
    """The wrapper makes the file and writes its number a moment later; None if nobody is left who could."""
    deadline = time.monotonic() + 5.0
    while True:
        if (text := path.read_text(encoding="ascii")).endswith("\n"):
            return int(text)
        wrapper_lives = bool(mark and processes.members(pgid=0, mark=mark, trust_group=False))
        if not wrapper_lives and (processes.sees_marks() or time.monotonic() >= deadline):
            return None
        time.sleep(0.01)


def _argv(command: Command, *, folder: Path, cwd: Path, path: str | None) -> Sequence[str]:
    if command.script is not None:
        script = folder / "script"
        script.write_bytes(command.script.encode("utf-8", "surrogateescape"))
        script.chmod(0o700)
        if command.script.startswith("#!"):
            return [str(script)]
        return [shutil.which("bash", path="/bin:/usr/bin:/usr/local/bin") or "/bin/sh", str(script)]
    program = command.argv[0]
    if "/" in program:
        if not os.access(cwd / program, os.X_OK):
            raise WorkRefused(f"program {program!r} is not there, or not executable")
        return command.argv
    # A bare name is looked up here, so that the wrapper never takes it for one of the shell's own words (exit, trap).
    found = shutil.which(program, path=path)
    if found is None:
        raise WorkRefused(f"program {program!r} was not found on this machine's PATH")
    return [os.path.abspath(found), *command.argv[1:]]


def _is_word(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _seconds(work: Mapping[str, Any], name: str, *, default: float | None = None) -> float | None:
    value = work.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise WorkRefused(f"{name} must be a number of seconds, not {value!r}")
    return float(value)
