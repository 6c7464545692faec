"""Files that survive a crash at any moment: written aside, synced, renamed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import UsageError


def write_private(path: Path, text: str) -> None:
    """Replace `path` by `text`, mode 0600. After a crash at any point it holds the old text or the new, never a part."""
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)  # on a full disk the room that it takes is wanted
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some network and notebook file systems cannot sync a folder; the rename itself is still atomic.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_private(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file, or None where there is no file. UsageError names a file that holds something else."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}", hint="repair its permissions, or remove it"
        ) from error
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"{path} is not JSON: {error}", hint="remove it, or use another --state-dir"
        ) from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} does not hold a JSON object", hint="remove it, or use another --state-dir")
    return value


class FolderLock:
    """One agent per state directory. The lock is the kernel's: it goes with the process, children do not inherit it."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "agent.lock"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)

    def take(self, *, patience_s: float) -> None:
        """Wait for an agent that is just ending; UsageError if it does not."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                    raise UsageError(
                        f"another agent (process {holder}) works in {self._path.parent}",
                        hint="stop it first, or use another --state-dir",
                    ) from None
                time.sleep(0.1)
        # Who holds it is said for people; without room on the disk it is held all the same.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
