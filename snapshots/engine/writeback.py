"""When a write through a memory map becomes visible in a file's times.

A shared mapping is written without a system call. The kernel moves mtime and ctime when a clean page is first dirtied, and again
only after it has written the page back. So a file that was looked at while dirty can change unseen until then.
"""

from __future__ import annotations

import os
from pathlib import Path

NEVER_WRITTEN_BACK = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
DEFAULT_NS = 45 * 10**9
_SETTINGS = ("dirty_expire_centisecs", "dirty_writeback_centisecs")


def written_back_within_ns(settings: Path = Path("/proc/sys/vm")) -> int:
    """A page that was dirtied this long ago has been written back: the kernel's own intervals, and half again."""
    try:
        found = [int((settings / name).read_text()) for name in _SETTINGS]
    except (OSError, ValueError):
        return DEFAULT_NS
    if not all(found):  # the flusher is switched off
        return 1 << 62
    return sum(found) * 15_000_000


def mapped_writes_show(fd: int) -> bool:
    """Whether the file system of this open folder moves ctime for writes through a map. Where nobody can tell, it does."""
    device = os.fstat(fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return True
    for line in lines:
        before, _, after = line.partition(" - ")
        if before.split(" ")[2] == wanted:
            return after.split(" ")[0] not in NEVER_WRITTEN_BACK
    return True
