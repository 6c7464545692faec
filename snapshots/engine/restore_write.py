"""Putting entries on the disk, below one open folder and nowhere else."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable

from snapshots.engine.beneath import Beneath
from snapshots.engine.entry import DEVICES, EncodedEntry, Entry, Kind
from snapshots.engine.errors import RestoreFailed, show
from snapshots.engine.xattrs import write_xattrs

SETUID_BITS = stat.S_ISUID | stat.S_ISGID
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_WHERE_OWNER = "belong to the user who restores: only root can give files away"
_WHERE_XATTR = "lost their user attributes: the file system does not hold them"
_WHERE_MODE = "have another mode than they had: the file system does not hold it"
_WHERE_TIME = "have another time than they had: the file system does not hold it"


class TreeWriter:
    """Makes entries in the order folders, files, everything else, then folders' metadata. Safe for many threads.

    Every method raises OSError as the system does; `warnings()` tells what the file system or our rights did not allow.
    """

    def __init__(self, root: Beneath, *, allow_devices: bool, allow_setuid: bool) -> None:
        self._root = root
        self._allow_devices = allow_devices
        self._allow_setuid = allow_setuid
        self._losses: Counter[str] = Counter()
        self._examples: dict[str, bytes] = {}
        self._left_out: list[str] = []
        self._without_xattrs: set[bytes] = set()

    # -- making -----------------------------------------------------------------------------------

    def make_folder(self, entry: Entry) -> None:
        parent, name = self._root.parent(entry.path)
        os.mkdir(name, 0o700, dir_fd=parent)

    def make_file(self, entry: Entry, data: memoryview) -> None:
        """A file that is one chunk, or empty, with its metadata."""
        fd = self._root.open(entry.path, _NEW, entry.mode & 0o777)
        try:
            _write(fd, 0, data)
            self._finish(fd, entry)
        finally:
            os.close(fd)

    def make_large_file(self, entry: Entry) -> None:
        """Its name and size; all of it is a hole until write_part() fills it, and finish_file() ends it."""
        fd = self._root.open(entry.path, _NEW)
        try:
            os.ftruncate(fd, entry.size)
        finally:
            os.close(fd)

    def write_part(self, entry: Entry, offset: int, data: memoryview) -> None:
        fd = self._root.open(entry.path, os.O_WRONLY)
        try:
            _write(fd, offset, data)
        finally:
            os.close(fd)

    def read_part(self, entry: Entry, offset: int, length: int) -> bytes:
        """At most `length` bytes of a file that has been written there."""
        fd = self._root.open(entry.path, os.O_RDONLY)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def finish_file(self, entry: Entry) -> None:
        fd = self._root.open(entry.path, os.O_WRONLY)
        try:
            self._finish(fd, entry)
        finally:
            os.close(fd)

    def make_special(self, entry: Entry) -> None:
        """A fifo, a device (if allowed), a symlink. Sockets are left to the programs that make them."""
        if entry.kind is Kind.SOCKET or (entry.kind in DEVICES and not self._allow_devices):
            self._left_out.append(
                f"{show(entry.path)}: a {entry.kind.name.lower().replace('_', ' ')} was left out"
            )
            return
        parent, name = self._root.parent(entry.path)
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, name, dir_fd=parent)
            self._give(
                entry, lambda: os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            )
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
            return
        if entry.kind is Kind.FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        else:
            kind = stat.S_IFCHR if entry.kind is Kind.CHARACTER_DEVICE else stat.S_IFBLK
            os.mknod(name, kind | 0o600, os.makedev(*(entry.device or (0, 0))), dir_fd=parent)
        # Opening a device can act on it, and a fifo would wait: these are named, which no symlink can divert in our own folder.
        self._give(entry, lambda: os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False))
        os.chmod(name, self._mode(entry), dir_fd=parent)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def make_hard_link(self, entry: Entry, first: Entry) -> None:
        """first: the entry that `entry.target` names."""
        if first.kind is Kind.SOCKET or (first.kind in DEVICES and not self._allow_devices):
            self._left_out.append(f"{show(entry.path)}: a hard link to something that was left out")
            return
        source, source_name = self._root.parent(entry.target)
        source = os.dup(source)
        try:
            parent, name = self._root.parent(entry.path)
            os.link(source_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def finish_folder(self, entry: Entry) -> os.stat_result:
        """After everything inside, and all folders inside, are finished. Returns what is there now."""
        return self.finish_open_folder(self._root.folder(entry.path), entry)

    def finish_open_folder(self, fd: int, entry: Entry) -> os.stat_result:
        self._finish(fd, entry)
        facts = os.fstat(fd)
        self._compare(entry, facts)
        return facts

    # -- checking ---------------------------------------------------------------------------------

    def check(self, entry: Entry) -> os.stat_result | None:
        """What is there now, None for what was left out. Raises RestoreFailed if it is not the entry's kind and size."""
        parent, name = self._root.parent(entry.path)
        try:
            facts = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            if entry.kind is Kind.SOCKET or entry.kind in DEVICES or entry.kind is Kind.HARD_LINK:
                return None
            raise RestoreFailed(f"{show(entry.path)} was removed while it was restored") from None
        if entry.kind is Kind.FILE and (not stat.S_ISREG(facts.st_mode) or facts.st_size != entry.size):
            raise RestoreFailed(f"{show(entry.path)} was changed while it was restored")
        self._compare(entry, facts)
        return facts

    def as_found(self, entry: Entry, raw: bytes, facts: os.stat_result | None) -> EncodedEntry:
        """The entry as a take would find it now: with the owner, mode and time that this file system and our rights allowed.

        raw: the entry's own encoding.
        """
        if facts is not None:
            mode, mtime_ns = stat.S_IMODE(facts.st_mode), facts.st_mtime_ns
            found = (mode, mtime_ns, facts.st_uid, facts.st_gid)
            lost = bool(entry.xattrs) and entry.path in self._without_xattrs
            if lost or found != (entry.mode, entry.mtime_ns, entry.uid, entry.gid):
                xattrs = () if lost else entry.xattrs
                now = Entry(entry.path, entry.kind, *found, xattrs, *entry[7:])
                return EncodedEntry.of(now)
        return EncodedEntry(entry.path, raw, entry.kind, entry.size)

    def warnings(self) -> list[str]:
        found = [
            f"{count} entries {what} (first: {show(self._examples[what])})"
            for what, count in sorted(self._losses.items())
        ]
        return found + self._left_out[:100]

    # -- inside -----------------------------------------------------------------------------------

    def _finish(self, fd: int, entry: Entry) -> None:
        # Attributes first: they need write permission. Owner before mode: chown clears setuid. Times last of all.
        if entry.xattrs:
            try:
                write_xattrs(fd, entry.xattrs)
            except OSError:
                self._without_xattrs.add(entry.path)
                self._lost(_WHERE_XATTR, entry)
        facts = os.fstat(fd)
        mode = self._mode(entry)
        if (facts.st_uid, facts.st_gid) != (entry.uid, entry.gid):
            self._give(entry, lambda: os.fchown(fd, entry.uid, entry.gid))
            os.fchmod(fd, mode)
        elif stat.S_IMODE(facts.st_mode) != mode:
            os.fchmod(fd, mode)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _give(self, entry: Entry, chown: Callable[[], None]) -> None:
        try:
            chown()
        except PermissionError:
            self._lost(_WHERE_OWNER, entry)

    def _mode(self, entry: Entry) -> int:
        if self._allow_setuid or entry.kind is Kind.FOLDER:
            return entry.mode
        return entry.mode & ~SETUID_BITS

    def _compare(self, entry: Entry, facts: os.stat_result) -> None:
        if entry.kind is not Kind.SYMLINK and stat.S_IMODE(facts.st_mode) != self._mode(entry):
            self._lost(_WHERE_MODE, entry)
        if facts.st_mtime_ns != entry.mtime_ns:
            self._lost(_WHERE_TIME, entry)

    def _lost(self, what: str, entry: Entry) -> None:
        self._losses[what] += 1
        self._examples.setdefault(what, entry.path)


def _write(fd: int, offset: int, data: memoryview) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
