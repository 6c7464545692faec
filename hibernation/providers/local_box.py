"""The first process of a local box, what `init` is in a container: it starts the agent and ends with everything in it.

The agent runs in a session of its own. A crashed agent is started again, and what it had started goes on meanwhile;
an agent that ended on purpose ends the box, with its exit code. On SIGTERM, or when the host is gone, the agent gets
`grace_s` to end by itself; then whatever is left in the box is killed. Nothing of a box outlives this process unless
it is itself killed with SIGKILL, and then the host looks for the rest by their mark (`local_process.BOX_MARK`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from hibernation.providers.local_files import json_write
from hibernation.providers.local_process import adopt_orphans, descendants, die_with_parent, signal_all

FINAL_EXITS = {0, 2, 3, 4}
"""The agent's own words: ended as asked, wrong usage, refused for good, cannot enrol. Starting again would not help."""

CANNOT_START = 2

RESTART_AFTER_S = (0.2, 0.5, 1, 2, 5, 10, 15)
STEADY_AFTER_S = 60.0
"""An agent that ran this long starts again without the waits of the crashes before."""

PARENT_CHECK_S = 1.0
FACTS_FILE = "agent.json"


class Init:
    """facts_path: where the agent's {"pid", "starts", "last_exit"} are written at each start."""

    def __init__(self, command: list[str], *, host_pid: int, grace_s: float, facts_path: Path) -> None:
        self.command = command
        self.host_pid = host_pid
        self.grace_s = grace_s
        self.facts_path = facts_path
        self.agent: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.crashes = 0
        self.started = 0.0
        self.stopping = False
        self.signals, wake = os.pipe()
        for end in (self.signals, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to be woken

    def run(self) -> int:
        """Until the box ends; the exit code of the agent, or 0 where the box was told to end."""
        last_exit: int | None = None
        start_at = time.monotonic()
        while not self.stopping and os.getppid() == self.host_pid:
            if self.agent is None and time.monotonic() >= start_at:
                try:
                    self._start(last_exit)
                except OSError as error:
                    _say(f"the agent cannot be started: {error}")
                    return CANNOT_START
            self._wait(PARENT_CHECK_S if self.agent else start_at - time.monotonic())
            code = self._reap()
            if code is None:
                continue
            if code in FINAL_EXITS:
                self._kill_rest()
                return code
            last_exit = code
            start_at = time.monotonic() + self._restart_after_s()
            _say(f"the agent ended with {code}; it starts again")
        self._end_agent()
        self._kill_rest()
        return 0

    def _start(self, last_exit: int | None) -> None:
        self.agent = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )
        self.starts += 1
        self.started = time.monotonic()
        facts = {"pid": self.agent.pid, "starts": self.starts, "last_exit": last_exit}
        json_write(self.facts_path, facts, durable=False)

    def _restart_after_s(self) -> float:
        if time.monotonic() - self.started >= STEADY_AFTER_S:
            self.crashes = 0
        self.crashes += 1
        return RESTART_AFTER_S[min(self.crashes, len(RESTART_AFTER_S)) - 1]

    def _end_agent(self) -> None:
        if self.agent is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.agent.pid, signal.SIGTERM)
        deadline = time.monotonic() + self.grace_s
        while self.agent is not None and time.monotonic() < deadline:
            self._wait(deadline - time.monotonic())
            self._reap()

    def _kill_rest(self) -> None:
        # Again and again: a process that forks while the others are looked for leaves a child behind.
        while True:
            self._reap()
            left = descendants(os.getpid())
            if not left:
                return
            signal_all(left, signal.SIGKILL)
            self._wait(0.05)

    def _reap(self) -> int | None:
        """Bury every child that ended. The agent's exit code, negative for a signal, if it was among them."""
        code: int | None = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return code
            if pid == 0:
                return code
            if self.agent is not None and pid == self.agent.pid:
                code = self.agent.returncode = os.waitstatus_to_exitcode(status)
                self.agent = None

    def _wait(self, timeout_s: float) -> None:
        """Until a signal comes, at most this long."""
        ready, _, _ = select.select([self.signals], [], [], max(timeout_s, 0.0))
        if ready:
            os.read(self.signals, 4096)

    def _stop(self, number: int, frame: object) -> None:
        self.stopping = True


def _say(text: str) -> None:
    sys.stderr.write(f"box: {text}\n")
    sys.stderr.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="local_box", description=__doc__)
    parser.add_argument(
        "--host", type=int, required=True, help="process number of the host that this box is on"
    )
    parser.add_argument("--grace-s", type=float, required=True)
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    die_with_parent(signal.SIGTERM)
    adopt_orphans()
    init = Init(given.command, host_pid=given.host, grace_s=given.grace_s, facts_path=given.facts)
    return init.run()


if __name__ == "__main__":
    sys.exit(main())
