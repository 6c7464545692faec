"""Points at which a process kills itself: armed by a test, passed by the process, each at most once.

A point is a file. Arming makes it, passing moves it away, in one step, before the kill: so that whoever comes to the
same point afterwards lives, also in another process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

FOLDER = "chaos"
ARMED, PASSED = "armed", "passed"


class Points:
    """data: the installation's data folder. A point's name is `<who>:<what>`, for example an instance's id and a step."""

    def __init__(self, data: Path) -> None:
        self._armed, self._passed = data / FOLDER / ARMED, data / FOLDER / PASSED

    def arm(self, name: str) -> None:
        for folder in (self._armed, self._passed):
            folder.mkdir(parents=True, exist_ok=True)
        (self._armed / name).touch()

    def passed(self) -> Iterator[str]:
        yield from (path.name for path in self._passed.glob("*"))

    def is_passed(self, name: str) -> bool:
        return (self._passed / name).exists()

    def take(self, name: str) -> bool:
        """Whether this process, now, is the one that passes it."""
        with suppress(FileNotFoundError):
            os.rename(self._armed / name, self._passed / name)
            return True
        return False


def die(*, parent: bool) -> None:
    """SIGKILL for this process, and for the one that would start it anew first: nothing of it can tidy up."""
    if parent:
        with suppress(ProcessLookupError):
            os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
