"""Reading files so that what was read is what was there: every read lies between two equal looks at the file."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from snapshots.engine import chunk
from snapshots.engine.beneath import Beneath
from snapshots.engine.codecs import Base
from snapshots.engine.entry import Extent, Xattrs
from snapshots.engine.errors import FileChanging, FileUnreadable
from snapshots.engine.keys import OwnerKey
from snapshots.engine.limits import SOLID_BLOCK_BYTES, SOLID_BLOCK_FILES, SOLID_FILE_MAX, Effort
from snapshots.engine.packing import Packer
from snapshots.engine.parallel import TaskPool
from snapshots.engine.progress import Control
from snapshots.engine.scan import GONE, Node, why_unreadable
from snapshots.engine.siblings import Sibling, Siblings
from snapshots.engine.statindex import COARSE_TICK_NS, FINE_TICK_NS, Identity, identity_of
from snapshots.engine.xattrs import read_xattrs

CHECK_EVERY = 64


class Reading(NamedTuple):
    """A file as it was read: what fstat said before and after, and where its bytes went."""

    facts: os.stat_result
    xattrs: Xattrs
    extents: tuple[Extent, ...]

    @property
    def identity(self) -> Identity:
        return identity_of(self.facts)


class _Changed(Exception):
    """The file is not the one it was before the read."""


class Reader:
    """Reads files into a packer. `readings` and `vanished` are by path, and complete once the pool has been joined.

    gives_up: a file that changed at each attempt goes into `changing`, in place of FileChanging.
    """

    def __init__(
        self,
        root: Beneath,
        *,
        packer: Packer,
        pool: TaskPool,
        owner_key: OwnerKey,
        control: Control,
        effort: Effort,
        clock_ns: Callable[[], int],
        siblings: Siblings,
        gives_up: bool = False,
    ) -> None:
        self.readings: dict[bytes, Reading] = {}
        self.vanished: list[bytes] = []
        self.changing: list[bytes] = []
        self._root = root
        self._packer = packer
        self._pool = pool
        self._key = owner_key
        self._control = control
        self._effort = effort
        self._clock_ns = clock_ns
        self._siblings = siblings
        self._gives_up = gives_up

    def read(self, nodes: Iterable[Node]) -> None:
        """Hand all these files to the pool: small ones in groups that become solid blocks, others one by one."""
        group: list[bytes] = []
        size = 0
        for node in nodes:
            if node.facts.st_size > SOLID_FILE_MAX or chunk.is_sparse(node.facts):
                self._pool.submit(self._big, node.path, 1)
                continue
            group.append(node.path)
            size += node.facts.st_size
            if size >= SOLID_BLOCK_BYTES or len(group) >= SOLID_BLOCK_FILES:
                self._pool.submit(self._group, group)
                group, size = [], 0
        if group:
            self._pool.submit(self._group, group)

    # -- small files ------------------------------------------------------------------------------

    def _group(self, paths: list[bytes]) -> None:
        parts: list[bytes] = []
        chunks: list[tuple[bytes, int]] = []
        files = size = 0
        for number, path in enumerate(paths):
            if number % CHECK_EVERY == 0:
                self._control.check()
            found = self._small(path)
            if found is None:
                continue
            facts, xattrs, data = found
            extents: tuple[Extent, ...] = ()
            if data:
                chunk_id = self._key.chunk_id(data)
                extents = ((chunk_id, len(data)),)
                if self._packer.claim(chunk_id):
                    parts.append(data)
                    chunks.append((chunk_id, len(data)))
            self.readings[path] = Reading(facts, xattrs, extents)
            files, size = files + 1, size + len(data)
        self._control.done(files=files, bytes_=size)
        if parts:
            self._packer.add_small(b"".join(parts), chunks)

    def _small(self, path: bytes) -> tuple[os.stat_result, Xattrs, bytes] | None:
        """A whole file, or None if it is gone or no longer small (it is then read another way)."""
        for attempt in range(1, self._effort.read_attempts + 1):
            try:
                return self._small_once(path, attempt)
            except _Gone:
                return None
            except _Changed:
                if not self._tries_again(path, attempt):
                    return None
        return None

    def _small_once(self, path: bytes, attempt: int) -> tuple[os.stat_result, Xattrs, bytes] | None:
        """What _opened does for large files, in one piece: there are tens of thousands of small ones."""
        fd = self._open(path)
        try:
            facts = self._settled(fd)
            size = facts.st_size
            if not stat.S_ISREG(facts.st_mode):
                self.vanished.append(path)
                raise _Gone
            if size > SOLID_FILE_MAX:
                self._pool.submit(self._big, path, attempt)
                return None
            data = _read(fd, 0, size + 1)
            xattrs = read_xattrs(fd)
            if len(data) != size or identity_of(os.fstat(fd)) != identity_of(facts):
                raise _Changed
            return facts, xattrs, data
        except OSError as error:
            raise FileUnreadable(path, why_unreadable(error)) from error
        finally:
            os.close(fd)

    # -- big files --------------------------------------------------------------------------------

    def _big(self, path: bytes, attempt: int) -> None:
        try:
            with self._opened(path) as (fd, facts):
                parts = chunk.regions(fd, facts)
                big = _BigFile(path, attempt, Reading(facts, read_xattrs(fd), ()), parts)
        except _Gone:
            return
        except _Changed:
            if self._tries_again(path, attempt):
                self._pool.submit(self._big, path, attempt + 1)
            return
        runs = list(chunk.spans(region for region in parts if not region.is_hole))
        self._control.done(bytes_=sum(region.length for region in parts if region.is_hole))
        if not runs:
            self._keep(path, big.reading())
        big.siblings = self._siblings.of(path, facts.st_size)
        big.spans_left = len(runs)
        for run in runs:
            self._pool.submit(self._span, big, run)

    def _span(self, big: _BigFile, run: list[tuple[int, int]]) -> None:
        with contextlib.suppress(_Changed, _Gone):
            if not big.changed:
                with self._opened(big.path, like=big.before.identity) as (fd, _):
                    found = [self._chunk(fd, offset, length, big.siblings) for offset, length in run]
                big.add(run, found)
        # The last one to end decides, so that no two attempts at one file overlap.
        if not big.span_ended():
            return
        if big.complete():
            self._keep(big.path, big.reading())
            return
        if self._tries_again(big.path, big.attempt):
            self._control.grow(bytes_=big.before.facts.st_size)
            self._pool.submit(self._big, big.path, big.attempt + 1)

    def _chunk(self, fd: int, offset: int, length: int, siblings: list[Sibling]) -> bytes:
        self._control.check()
        data = _read(fd, offset, length)
        if len(data) != length:
            raise _Changed
        chunk_id = self._key.chunk_id(data)
        if self._packer.claim(chunk_id):
            self._packer.add_large(data, chunk_id, self._base(offset, length, siblings))
        self._control.done(bytes_=length)
        return chunk_id

    def _base(self, offset: int, length: int, siblings: list[Sibling]) -> Base | None:
        """The chunk at the same place of an older sibling, if it is stored whole and still on this disk."""
        known = self._packer.known
        for sibling in siblings if known is not None else ():
            chunk_id, found = sibling.chunks.get(offset, (None, 0))
            if chunk_id is None or found != length:
                continue
            block = known.block_of(chunk_id) if known is not None else None
            if block is None or block.is_delta:
                continue
            with contextlib.suppress(OSError):
                fd = self._root.open(sibling.path, os.O_RDONLY | os.O_NONBLOCK)
                try:
                    data = _read(fd, offset, length)
                finally:
                    os.close(fd)
                if self._key.chunk_id(data) == chunk_id:
                    return Base(chunk_id, data)
        return None

    # -- both -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _opened(self, path: bytes, *, like: Identity | None = None) -> Iterator[tuple[int, os.stat_result]]:
        """The file, open, and what fstat says. Raises _Gone, _Changed (also at the end of the block), FileUnreadable."""
        fd = self._open(path)
        try:
            facts = self._settled(fd)
            if not stat.S_ISREG(facts.st_mode):
                self.vanished.append(path)
                raise _Gone
            if like is not None and identity_of(facts) != like:
                raise _Changed
            yield fd, facts
            if identity_of(os.fstat(fd)) != identity_of(facts):
                raise _Changed
        except OSError as error:
            self._control.check()  # an upload that failed meanwhile may also be an OSError: that is not this file's fault
            raise FileUnreadable(path, why_unreadable(error)) from error
        finally:
            os.close(fd)

    def _open(self, path: bytes) -> int:
        try:
            # A fifo that took the file's place must not make us wait for its writer.
            return self._root.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in GONE:
                self.vanished.append(path)
                raise _Gone from None
            raise FileUnreadable(path, why_unreadable(error)) from error

    def _settled(self, fd: int) -> os.stat_result:
        """fstat, once the file's ctime is old enough that any later change must give it another one."""
        facts = os.fstat(fd)
        tick_ns = FINE_TICK_NS if facts.st_ctime_ns % 1_000_000_000 else COARSE_TICK_NS
        age_ns = self._clock_ns() - facts.st_ctime_ns
        if age_ns >= tick_ns:
            return facts
        self._control.pause((tick_ns - max(age_ns, 0)) / 1e9)
        return os.fstat(fd)

    def _tries_again(self, path: bytes, attempt: int) -> bool:
        """After a pause. False where it is given up."""
        if attempt >= self._effort.read_attempts:
            if self._gives_up:
                self.changing.append(path)
                return False
            raise FileChanging(
                path,
                f"it changed each of the {attempt} times it was read: stop the program that writes it, or move it out of the workspace",
            )
        self._control.pause(self._effort.retry_pause_s * attempt)
        return True

    def _keep(self, path: bytes, reading: Reading) -> None:
        self.readings[path] = reading
        self._control.done(files=1)


class _Gone(Exception):
    """Nothing, or something that is no file, has the path now."""


class _BigFile:
    """One attempt at a file that several threads read span by span."""

    def __init__(self, path: bytes, attempt: int, before: Reading, parts: list[chunk.Region]) -> None:
        self.path = path
        self.attempt = attempt
        self.before = before
        self.spans_left = 0
        self.siblings: list[Sibling] = []
        self._parts = parts
        self._chunks: dict[int, Extent] = {}
        self._spans_read = 0
        self._spans_ended = 0
        self._lock = threading.Lock()

    @property
    def changed(self) -> bool:
        """Whether some span was found changed: the others need not be read."""
        return self._spans_ended > self._spans_read

    def add(self, run: list[tuple[int, int]], ids: list[bytes]) -> None:
        with self._lock:
            self._spans_read += 1
            for (offset, length), chunk_id in zip(run, ids, strict=True):
                self._chunks[offset] = (chunk_id, length)

    def span_ended(self) -> bool:
        """True for the last one."""
        with self._lock:
            self._spans_ended += 1
            return self._spans_ended == self.spans_left

    def complete(self) -> bool:
        return self._spans_read == self.spans_left

    def reading(self) -> Reading:
        extents: list[tuple[int, Extent]] = [(at, found) for at, found in self._chunks.items()]
        extents += [(part.offset, (None, part.length)) for part in self._parts if part.is_hole]
        return self.before._replace(extents=tuple(extent for _, extent in sorted(extents)))


def _read(fd: int, offset: int, length: int) -> bytes:
    """`length` bytes, fewer only at the end of the file."""
    data = os.pread(fd, length, offset)
    if len(data) in (0, length):
        return data
    parts, got = [data], len(data)
    while got < length and (data := os.pread(fd, length - got, offset + got)):
        parts.append(data)
        got += len(data)
    return b"".join(parts)
