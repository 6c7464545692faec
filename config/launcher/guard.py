"""Two processes instead of one, each watching the other: whichever is killed, the other ends everything.

The front is what the shell started and what a person kills. The guard is its child, in a session of its own
(a terminal's Ctrl-C reaches only the front, which passes it on once), and the parent of all that runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from config.launcher.kernel import adopt_orphans, die_with_parent, kill_descendants

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def guarded(work: Callable[[], int]) -> int:
    """Run `work` in the guard; returns its exit code once nothing of it is left."""
    adopt_orphans()
    sys.stdout.flush()
    front = os.getpid()
    guard = os.fork()
    if guard == 0:
        _guard(work, front)

    def pass_on(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(guard, signal.SIGTERM)

    for number in STOP_SIGNALS:
        signal.signal(number, pass_on)
    code = _wait_for(guard)
    if code < 0:
        sys.stderr.write(f"The launcher was killed by signal {-code}; ending what it had started.\n")
    kill_descendants()
    return code if code >= 0 else 128 - code


def _guard(work: Callable[[], int], front: int) -> None:
    """Never returns."""
    code = 1
    try:
        os.setsid()
        adopt_orphans()
        for number in STOP_SIGNALS:
            signal.signal(number, _exit)  # until `work` has a better answer
        die_with_parent(signal.SIGTERM, parent=front)
        code = work()
    finally:
        # Nothing leaves this process but by _exit, so an error must be shown here.
        if isinstance(sys.exc_info()[1], Exception):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        kill_descendants()
        os._exit(code)


def _exit(number: int, frame: FrameType | None) -> None:
    """By an exception, so that the `finally` above still runs."""
    raise SystemExit(128 + number)


def _wait_for(guard: int) -> int:
    """The guard's exit code, negative for a signal. Collects adopted orphans on the way."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == guard:
            return os.waitstatus_to_exitcode(status)
