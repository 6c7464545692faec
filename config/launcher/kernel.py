"""What Linux offers so that no process is ever left behind; elsewhere each of these does as much as it can."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that it can still be found and ended."""
    if _libc is not None:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(number: signal.Signals, *, parent: int) -> None:
    """Ask for this signal when the parent process ends, however it ends. Gone already: end here and now."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def descendants(pid: int) -> list[int]:
    """Every living descendant, parents before children. Empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        parent = _parent(entry)
        if parent is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def kill_descendants(*, limit_s: float = 5.0) -> int:
    """SIGKILL for everything below this process, again until nothing is left; how many there were at first."""
    first = descendants(os.getpid())
    deadline = time.monotonic() + limit_s
    left = first
    while left and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        reap_all()
        time.sleep(0.01)
        left = descendants(os.getpid())
    return len(first)


def reap_all() -> None:
    """Collect every child that has ended. For the very end: whoever waits for one of them will not find it."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def reap_orphans(known: set[int]) -> None:
    """Collect adopted children that have ended, and leave those that somebody waits for by number."""
    while sys.platform == "linux":
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in known:
            return  # a known one hides those behind it until its owner has looked
        os.waitpid(ended.si_pid, 0)


def _parent(entry: Path) -> int | None:
    """The parent's id, None for one that ended while we looked and for a zombie, which only waits to be collected."""
    try:
        state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state == "Z" else int(parent)
