"""Opening what lies below one folder, name by name, so that no symlink on the way can lead out of it."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from types import TracebackType

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
KEPT_PER_THREAD = 8
"""Open folders that a thread keeps: files come in path order, so the next one is usually in the same folder."""


class Beneath:
    """Paths are bytes, relative to the folder `root_fd` (which stays the caller's), "" for the folder itself.

    Every method raises OSError: ELOOP or ENOTDIR where a name on the way is a symlink or no folder.
    """

    def __init__(self, root_fd: int) -> None:
        self.root_fd = root_fd
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._all: list[OrderedDict[bytes, int]] = []

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """(descriptor of the folder that holds `path`, its last name). The descriptor is good until this thread's next call."""
        folder, _, name = path.rpartition(b"/")
        return self.folder(folder), name

    def folder(self, path: bytes) -> int:
        """A descriptor of this folder, good until this thread's next call. Not the caller's to close."""
        kept = self._kept()
        if path in kept:
            kept.move_to_end(path)
            return kept[path]
        missing, at = [], path
        while at and at not in kept:
            missing.append(at)
            at = at.rpartition(b"/")[0]
        fd = kept[at] if at else self.root_fd
        if at:
            kept.move_to_end(at)
        for below in reversed(missing):
            fd = os.open(below.rpartition(b"/")[2], FOLDER_FLAGS, dir_fd=fd)
            kept[below] = fd
            if len(kept) > KEPT_PER_THREAD:
                os.close(kept.popitem(last=False)[1])
        return fd

    def open(self, path: bytes, flags: int, mode: int = 0o600) -> int:
        """Like os.open, never through a symlink, not even as the last name. The caller closes it."""
        parent, name = self.parent(path)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=parent)

    def close(self) -> None:
        """Close every thread's folders. No other thread may be at work."""
        with self._lock:
            for kept in self._all:
                while kept:
                    os.close(kept.popitem()[1])

    def __enter__(self) -> Beneath:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _kept(self) -> OrderedDict[bytes, int]:
        kept: OrderedDict[bytes, int] | None = getattr(self._mine, "kept", None)
        if kept is None:
            kept = self._mine.kept = OrderedDict()
            with self._lock:
                self._all.append(kept)
        return kept
