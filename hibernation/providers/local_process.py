"""Processes as the local host must know them: by more than a number, with their descendants, and with their box.

On Linux everything comes from /proc; elsewhere from `ps`, which cannot show another process's environment, so there a
process that left its box's process tree is not found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

BOX_MARK = "LOCAL_HOST_BOX"
"""Environment variable that every process of a box inherits: "<the host's folder>:<the box's ref>"."""

_PROC = Path("/proc")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(number: signal.Signals) -> None:
    """Ask the kernel for this signal when the thread that started this process ends. Does nothing but on Linux."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose parent dies. Does nothing but on Linux."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def identity(pid: int) -> str | None:
    """What tells this process from a later one with the same number, or None where no process has it (a zombie is none)."""
    if sys.platform != "linux":
        started = _ps("-o", "stat=,lstart=", "-p", str(pid)).split(maxsplit=1)
        return started[1].strip() if len(started) == 2 and not started[0].startswith("Z") else None
    fields = _stat(pid)
    if fields is None:
        return None
    return f"{_PROC.joinpath('sys/kernel/random/boot_id').read_text().strip()} {fields[19]}"


def descendants(pid: int) -> list[int]:
    """Every living process below `pid`, children first. Zombies are left out."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    ahead = [pid]
    while ahead:
        below = children.get(ahead.pop(0), [])
        found += below
        ahead += below
    return found


def children(pid: int) -> list[int]:
    """The processes whose parent this is, zombies among them."""
    return [child for child, parent in _parents(zombies=True) if parent == pid]


def family(mark: str) -> list[int]:
    """The living processes with this mark (see `marked`), and all that descend from them, marked or not."""
    found = marked(mark)
    return sorted({*found, *(below for pid in found for below in descendants(pid))})


def marked(mark: str) -> list[int]:
    """Every living process of this user with this mark, or with any mark below it where `mark` ends with a colon."""
    wanted = f"{BOX_MARK}={mark}".encode()
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            environment = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
            if any(_is_below(entry, wanted) for entry in environment) and _stat(pid) is not None:
                found.append(pid)
    return found


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send it to each; those that are gone already are passed over."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _is_below(entry: bytes, wanted: bytes) -> bool:
    return entry.startswith(wanted) if wanted.endswith(b":") else entry == wanted


def _pids() -> list[int]:
    if not _PROC.joinpath("self/environ").exists():
        return []
    return [int(name) for name in os.listdir(_PROC) if name.isdigit() and int(name) != os.getpid()]


def _parents(*, zombies: bool = False) -> list[tuple[int, int]]:
    """(process, its parent) for every living process."""
    if sys.platform != "linux":
        rows = [line.split() for line in _ps("-axo", "pid=,ppid=,stat=").splitlines()]
        return [(int(row[0]), int(row[1])) for row in rows if len(row) == 3 and (zombies or row[2][0] != "Z")]
    found = []
    for pid in _pids():
        fields = _stat(pid, zombies=zombies)
        if fields is not None:
            found.append((pid, int(fields[1])))
    return found


def _stat(pid: int, *, zombies: bool = False) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the third on (state, parent, …); None for no process, or a zombie."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The second field is the program's name in brackets, and may hold blanks and brackets itself.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in ("Z", "X", "x") and not zombies else fields


def _ps(*arguments: str) -> str:
    return subprocess.run(
        ["ps", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
        env={**os.environ, "LC_ALL": "C"},
    ).stdout
