"""The files' bytes of a restore: from the store, through decoding and checking, into their places."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable

from snapshots.engine.bases import Bases
from snapshots.engine.codecs import Raw
from snapshots.engine.entry import Entry, Kind
from snapshots.engine.errors import DataDamaged, ManifestRefused, show
from snapshots.engine.fetching import Range, plan_ranges
from snapshots.engine.index import ChunkIndex
from snapshots.engine.keys import OwnerKey, pack_key
from snapshots.engine.limits import Effort
from snapshots.engine.pack import BlockRecord, open_block
from snapshots.engine.parallel import ByteBudget, TaskPool
from snapshots.engine.progress import Control
from snapshots.engine.remote.base import Remote
from snapshots.engine.restore_write import TreeWriter
from snapshots.engine.store.base import ObjectMissing

log = logging.getLogger(__name__)
CHECK_EVERY = 256


class FileData:
    """Many threads fetch (they wait for the network), as many as there are processors decode, check and write."""

    def __init__(
        self,
        writer: TreeWriter,
        remote: Remote,
        index: ChunkIndex,
        owner_key: OwnerKey,
        owner_id: str,
        control: Control,
        effort: Effort,
    ) -> None:
        self.fetched_bytes = 0
        self._writer = writer
        self._remote = remote
        self._index = index
        self._key = owner_key
        self._owner_id = owner_id
        self._control = control
        self._effort = effort
        self._budget = ByteBudget(effort.fetch_bytes, control)
        self._fetched_bases = Bases(index, owner_key, owner_id, self._get)
        self._places: defaultdict[bytes, list[tuple[Entry, int]]] = defaultdict(list)
        self._large: list[Entry] = []
        self._lock = threading.Lock()

    def run(self, entries: Iterable[Entry]) -> None:
        """Folders, then files. Large files get their size at once and are filled in any order."""
        for number, entry in enumerate(entries):
            if number % CHECK_EVERY == 0:
                self._control.check()
            if entry.kind is Kind.FOLDER:
                self._writer.make_folder(entry)
            elif entry.kind is Kind.FILE:
                self._prepare(entry)
        whole, deltas = self._planned()
        self._fill(whole)
        self._fill(deltas)
        for entry in self._large:
            self._writer.finish_file(entry)
            self._control.done(files=1)

    def _prepare(self, entry: Entry) -> None:
        """Make what needs no bytes, and note where every chunk goes."""
        if not entry.extents:
            self._writer.make_file(entry, memoryview(b""))
            self._control.done(files=1)
        elif not _is_one_chunk(entry):
            self._writer.make_large_file(entry)
            self._large.append(entry)
        at = 0
        for chunk_id, length in entry.extents:
            if chunk_id is None:
                self._control.done(bytes_=length)
            elif self._index.length(chunk_id) == length:
                self._places[chunk_id].append((entry, at))
            else:
                raise ManifestRefused(
                    f"{show(entry.path)} needs a chunk of {length} bytes that no pack of the snapshot has"
                )
            at += length

    def _planned(self) -> tuple[list[Range], list[Range]]:
        """What to fetch: small files first, then large ones; and deltas, which need what they build on to be there."""
        deltas: list[bytes] = []
        whole: list[bytes] = []
        for chunk_id in self._places:
            block = self._index.block_of(chunk_id)
            (deltas if block is not None and block.is_delta else whole).append(chunk_id)
        ranges = plan_ranges(self._index, whole)
        ranges.sort(key=lambda part: len(part.blocks[0].lengths) == 1)
        return ranges, plan_ranges(self._index, deltas)

    def _fill(self, ranges: list[Range]) -> None:
        workers = min(self._effort.workers, len(ranges) or 1)
        with (
            TaskPool(workers, self._control) as decoding,
            TaskPool(min(self._effort.streams, len(ranges) or 1), self._control) as fetching,
        ):
            for part in ranges:
                fetching.submit(self._fetch, part, decoding)
            fetching.join()
            decoding.join()

    def _fetch(self, part: Range, decoding: TaskPool) -> None:
        self._budget.acquire(part.length)
        try:
            key = pack_key(self._owner_id, part.pack.pack_id)
            data = self._get(key, part.offset, part.length)
        except BaseException:
            self._budget.release(part.length)
            raise
        decoding.submit(self._unpack, key, part, data)

    def _unpack(self, key: str, part: Range, data: bytes) -> None:
        try:
            view = memoryview(data)
            for block in part.blocks:
                self._control.check()
                at = block.offset - part.offset
                self._place(key, block, view[at : at + block.span])
        finally:
            self._budget.release(part.length)

    def _get(self, key: str, offset: int, length: int) -> bytes:
        try:
            data = self._remote.get(key, offset=offset, length=length)
        except ObjectMissing:
            raise DataDamaged(f"{key} is missing from the store") from None
        with self._lock:
            self.fetched_bytes += len(data)
        return data

    def _place(self, key: str, block: BlockRecord, span: memoryview) -> None:
        try:
            chunks = list(open_block(block, span, self._key, wanted=self._places, base=self._base))
        except DataDamaged:
            log.warning("%s: the block at %d came damaged; asking once more", key, block.offset)
            again = memoryview(self._get(key, block.offset, block.span))
            try:
                bases = self._fetched_bases
                chunks = list(open_block(block, again, self._key, wanted=self._places, base=bases))
            except DataDamaged as error:
                raise DataDamaged(f"{key}, block at {block.offset}: {error}") from None
        files = size = 0
        for chunk, data in chunks:
            for entry, at in self._places[chunk.chunk_id]:
                if _is_one_chunk(entry):
                    self._writer.make_file(entry, data)
                    files += 1
                else:
                    self._writer.write_part(entry, at, data)
                size += len(data)
        self._control.done(files=files, bytes_=size)

    def _base(self, base_id: bytes) -> Raw:
        """From the file that it was just written to; where no file has it any more, from the store."""
        for entry, at in self._places.get(base_id, ())[:1]:
            length = self._index.length(base_id) or 0
            try:
                data = self._writer.read_part(entry, at, length)
            except OSError:  # a file that its own mode keeps us from reading
                break
            if len(data) == length:
                return data
        return self._fetched_bases(base_id)


def _is_one_chunk(entry: Entry) -> bool:
    """Such a file is made, written and finished in one go, when its chunk arrives."""
    return len(entry.extents) == 1 and entry.extents[0][0] is not None
