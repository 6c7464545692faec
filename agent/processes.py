"""The processes of one run: found by its mark in their environment and by their group, and ended together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

MARK = "DORMOUSE_RUN"
"""Environment variable that every process of a run inherits. A process that leaves its group and session keeps it."""

GraceLeft = Callable[[], float]
"""Asked again and again: how many seconds of grace are left. May shrink meanwhile."""

_PROC = Path("/proc")


def sees_marks() -> bool:
    """Can this system show the environment of a process? Linux can; elsewhere the group has to do."""
    return _PROC.joinpath("self/environ").exists()


def is_alive(pid: int, *, mark: str) -> bool:
    """Is `pid` still the process of that run that it was? A reused number does not carry the mark."""
    if not sees_marks():
        return pid in _group_by_ps(pid)
    return _state_and_group(pid) is not None and _is_marked(pid, mark)


def members(*, pgid: int, mark: str, trust_group: bool) -> list[int]:
    """Living processes of a run (zombies are not).

    trust_group: `pgid` is known to be this run's, because its leader was seen alive by this agent. A group
    whose leader died before the agent was started may be another program's by now; then only the mark counts.
    """
    if not sees_marks():
        return _group_by_ps(pgid) if trust_group else []
    found = []
    own = os.getpid()
    for name in os.listdir(_PROC):
        if not name.isdigit() or int(name) == own:
            continue
        pid = int(name)
        group = _state_and_group(pid)
        if group is not None and ((trust_group and group == pgid) or _is_marked(pid, mark)):
            found.append(pid)
    return found


def end(*, pgid: int, mark: str, trust_group: bool, grace_left_s: GraceLeft) -> bool:
    """SIGTERM, wait while grace is left, SIGKILL, until no process of the run is left. False if some cannot be killed."""
    living = members(pgid=pgid, mark=mark, trust_group=trust_group)
    if grace_left_s() > 0:
        _signal(living, signal.SIGTERM)
        while living and grace_left_s() > 0:
            time.sleep(0.03)
            living = members(pgid=pgid, mark=mark, trust_group=trust_group)
    deadline = time.monotonic() + 5.0
    while living and time.monotonic() < deadline:
        # Again and again: a process that forks while it is looked for leaves a child behind.
        _signal(living, signal.SIGKILL)
        time.sleep(0.01)
        living = members(pgid=pgid, mark=mark, trust_group=trust_group)
    return not living


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _state_and_group(pid: int) -> int | None:
    """The process group of a living process, None for a zombie or no process at all."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The name in brackets may hold anything, also brackets and blanks: fields count from the last one.
    state, _parent, group = stat[stat.rindex(b")") + 2 :].split(b" ", 3)[:3]
    return None if state in (b"Z", b"X", b"x") else int(group)


def _is_marked(pid: int, mark: str) -> bool:
    try:
        environ = (_PROC / str(pid) / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return f"{MARK}={mark}".encode() in environ.split(b"\0")


def _group_by_ps(pgid: int) -> list[int]:
    """Systems without /proc: the group is all that can be seen."""
    listing = subprocess.run(
        ["ps", "-axo", "pid=,pgid=,stat="], capture_output=True, text=True, check=False, timeout=10
    )
    rows = [line.split() for line in listing.stdout.splitlines()]
    return [
        int(row[0]) for row in rows if len(row) == 3 and int(row[1]) == pgid and not row[2].startswith("Z")
    ]
