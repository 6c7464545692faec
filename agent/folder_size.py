"""How much lies in a folder, found out beside a job that goes on writing into it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Size:
    files: int = 0
    size_bytes: int = 0


def size_of(folder: Path, *, since_ns: int, within_s: float, stopped: Callable[[], bool]) -> Size:
    """The files in it that have changed since then (wall clock), as far as they were found within that time.

    Links are not followed; what disappears meanwhile, or cannot be read, is not counted.
    """
    until_s = time.monotonic() + within_s
    files = size_bytes = 0
    waiting = [os.fspath(folder)]
    while waiting and time.monotonic() < until_s and not stopped():
        try:
            with os.scandir(waiting.pop()) as rows:
                for row in rows:
                    found = row.stat(follow_symlinks=False)
                    if row.is_dir(follow_symlinks=False):
                        waiting.append(row.path)
                    elif max(found.st_mtime_ns, found.st_ctime_ns) >= since_ns:
                        files += 1
                        size_bytes += found.st_size
        except OSError:
            continue
    return Size(files=files, size_bytes=size_bytes)
