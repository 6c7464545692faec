"""One launcher for a data folder: the lock goes with the process that holds it, the file says where it listens."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

FILE = "launcher.json"

STARTING = "launcher: it is still starting what comes after the servers"
"""What /readyz misses where `starting` says so."""


class AlreadyRunning(RuntimeError):
    """Another launcher holds the folder. `url` is empty while it is still starting."""

    def __init__(self, *, pid: int, url: str) -> None:
        super().__init__(
            f"Dormouse already runs in this folder: {url} (process {pid}). Stop it with Ctrl-C there, or: kill {pid}"
            if url
            else f"Dormouse is just starting in this folder (process {pid})."
        )
        self.pid = pid
        self.url = url


def starting(data: Path) -> bool:
    """Is a launcher bringing this folder's installation up, and not done yet? False where nobody used one."""
    try:
        said = json.loads((data / FILE).read_text())
        if said["url"]:
            return False
        os.kill(said["pid"], 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return False
    except PermissionError:  # it lives, as another user
        return True
    return True


@dataclass(frozen=True)
class Lock:
    """Held until the process that took it, and every one that it forked without exec, has ended. pid: who took it."""

    fd: int
    pid: int

    @classmethod
    def take(cls, data: Path) -> Self:
        """Raises AlreadyRunning, with what the holder wrote."""
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(data / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with os.fdopen(fd) as file:
                said = json.loads(file.read() or "{}")
            raise AlreadyRunning(pid=said.get("pid", 0), url=said.get("url", "")) from None
        lock = cls(fd, os.getpid())
        lock.tell(url="")
        return lock

    def tell(self, *, url: str) -> None:
        """Write who holds the lock and where it is to be reached; empty while it is not."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, json.dumps({"pid": self.pid, "url": url}).encode(), 0)
