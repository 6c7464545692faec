"""The folder in which a restore grows, and the moment in which it becomes the target."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

from snapshots.engine.beneath import FOLDER_FLAGS
from snapshots.engine.errors import RestoreFailed, RestoreRefused

INSIDE = ".restoring"
"""Where the target is a mount point nothing beside it is on the same file system: the staging folder lies within."""
_LOST_AND_FOUND = "lost+found"


class Staging:
    """A private folder on the target's file system, locked for this process. `fd` is open until publish() or abandon()."""

    def __init__(self, target: str | os.PathLike[str], *, top_names: frozenset[str] = frozenset()) -> None:
        """Make it, or take over and clear what a killed restore left. top_names: what the snapshot has at its top.

        Raises RestoreRefused: the target is not empty, no folder, or another restore is at work on it.
        """
        self.target = Path(os.path.realpath(target))
        self._inside = os.path.ismount(self.target)
        self.path = (
            self.target / INSIDE if self._inside else self.target.parent / f".{self.target.name}{INSIDE}"
        )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.fd = self._lock()
            try:
                self._check_target(top_names)
                clear(self.fd)
            except BaseException:
                os.close(self.fd)
                with contextlib.suppress(
                    OSError
                ):  # only if it is empty: what a killed restore left stays for the next
                    self.path.rmdir()
                raise
        except OSError as error:
            raise RestoreRefused(f"cannot prepare {self.path}: {error.strerror or error}") from error

    @property
    def is_inside(self) -> bool:
        """Whether the target is a mount point, into which everything at the top is moved."""
        return self._inside

    def free_bytes(self) -> int | None:
        """Room on the file system for this user, None where it does not say."""
        facts = os.fstatvfs(self.fd)
        return facts.f_bavail * facts.f_frsize if facts.f_blocks else None

    def publish(self, finish_top: Callable[[int], object]) -> None:
        """Let the finished tree appear as the target. Raises RestoreFailed; the target is then as it was.

        finish_top(fd) gives the top folder its metadata: the staging folder's, or the mount point's once everything is in it.
        """
        try:
            if self._inside:
                self._move_up()
                _with_folder(self.target, finish_top)
            else:
                finish_top(self.fd)
                os.rename(self.path, self.target)
        except OSError as error:
            why = (
                "it was filled meanwhile"
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST)
                else error.strerror
            )
            raise RestoreFailed(f"the restored tree cannot take its place as {self.target}: {why}") from error
        os.close(self.fd)

    def abandon(self) -> None:
        """Remove everything again. What cannot be removed is left for the next attempt to clear."""
        try:
            clear(self.fd)
            self.path.rmdir()
        except OSError:
            return
        finally:
            os.close(self.fd)

    def _lock(self) -> int:
        while True:
            try:
                self.path.mkdir(mode=0o700)
                self._was_there = False
            except FileExistsError:
                self._was_there = True
            fd = os.open(self.path, FOLDER_FLAGS)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine = os.fstat(fd)
                if mine.st_uid != os.geteuid():
                    raise RestoreRefused(f"{self.path} belongs to another user: remove it")
                # Between open and lock another restore may have finished, and this folder become its target.
                if _inode(self.path) == (mine.st_dev, mine.st_ino):
                    os.fchmod(fd, 0o700)
                    return fd
            except BlockingIOError:
                os.close(fd)
                raise RestoreRefused(f"another restore into {self.target} is at work: wait for it") from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _check_target(self, top_names: frozenset[str]) -> None:
        try:
            names = set(os.listdir(self.target))
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise RestoreRefused(f"{self.target} exists and is not a folder: move it away") from None
        if self._inside:
            names -= {INSIDE, _LOST_AND_FOUND}
            # A restore into a mount point that was killed while it moved finished folders up: all of them are the snapshot's.
            if self._was_there and names <= top_names:
                self._withdraw(names)
                return
        if names:
            some = ", ".join(sorted(names)[:3])
            raise RestoreRefused(
                f"{self.target} is not empty ({some}): a restore never mixes with what is there; move it away"
            )

    def _move_up(self) -> None:
        moved: set[str] = set()
        try:
            for name in os.listdir(self.fd):
                os.rename(self.path / name, self.target / name)
                moved.add(name)
        except OSError:
            self._withdraw(moved)
            raise
        self.path.rmdir()

    def _withdraw(self, names: set[str]) -> None:
        for name in names:
            os.rename(self.target / name, self.path / name)


def clear(fd: int) -> None:
    """Remove everything in an open folder, also what its modes would protect; never follows a symlink."""
    os.fchmod(fd, 0o700)
    for name in os.listdir(fd):
        if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=fd)
            continue
        try:
            below = os.open(name, FOLDER_FLAGS, dir_fd=fd)
        except PermissionError:
            os.chmod(name, 0o700, dir_fd=fd)
            below = os.open(name, FOLDER_FLAGS, dir_fd=fd)
        try:
            clear(below)
        finally:
            os.close(below)
        os.rmdir(name, dir_fd=fd)


def _with_folder(path: Path, act: Callable[[int], object]) -> None:
    fd = os.open(path, FOLDER_FLAGS)
    try:
        act(fd)
    finally:
        os.close(fd)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        facts = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return facts.st_dev, facts.st_ino
