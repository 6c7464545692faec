"""Prove that a snapshot can be restored: every pack there, every chunk in one, a sample of blocks read back."""

from __future__ import annotations

import logging
import math
import random
from dataclasses import dataclass

from snapshots.engine.bases import Bases
from snapshots.engine.errors import DataDamaged, ManifestRefused, SnapshotDamaged, show
from snapshots.engine.fetching import Range, ranges_of
from snapshots.engine.index import ChunkIndex, Place
from snapshots.engine.keys import pack_key, parse_key
from snapshots.engine.limits import DEFAULT_LIMITS, Limits
from snapshots.engine.manifest import Manifest, load_manifest
from snapshots.engine.pack import PackRecord, open_block
from snapshots.engine.parallel import ahead
from snapshots.engine.progress import Control, IsCancelled, OnProgress
from snapshots.engine.remote.direct import StoreRemote
from snapshots.engine.root import TotalsCounter
from snapshots.engine.store.base import ObjectMissing, Store

log = logging.getLogger(__name__)
PROBLEMS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was proved. blocks_read of blocks were read back, decoded and hashed; referenced_bytes are the packs' lengths."""

    snapshot_id: str
    parent_id: str | None
    content_id: str
    entries: int
    files: int
    logical_bytes: int
    referenced_bytes: int
    packs: int
    chunks: int
    blocks: int
    blocks_read: int
    bytes_read: int


def verify(
    store: Store,
    *,
    root_key: str,
    owner_key: bytes,
    owner_id: str,
    expected_root_sha256: str,
    sample: float = 0.01,
    sample_blocks_min: int = 16,
    seed: int = 0,
    streams: int = 16,
    progress: OnProgress | None = None,
    cancelled: IsCancelled | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Verified:
    """Read the root and segments, ask for every pack, check every chunk's place, read back a share of the blocks.

    sample: share of blocks from 0 to 1 (1 reads everything), but at least sample_blocks_min; `seed` chooses them.
    Raises SnapshotDamaged with the list of what is wrong, or StoreBusy and StoreRefused where the store could not be asked:
    that is no verdict, ask again.
    """
    control = Control(progress, cancelled)
    problems = _Problems()
    manifest = _open(store, root_key, owner_key, owner_id, expected_root_sha256, limits)
    try:
        index = manifest.index
        control.phase("packs", files_total=len(index.packs))
        _check_packs(store, owner_id, index, streams, control, problems)
        control.phase("entries", files_total=manifest.root.totals.entries)
        _check_entries(manifest, index, control, problems)
        chosen = _choose(index, sample, sample_blocks_min, seed)
        bytes_read = _read_back(store, manifest, chosen, streams, control, problems)
    except ManifestRefused as error:
        problems.add(str(error))
    problems.raise_if_any()
    control.finish()
    totals = manifest.root.totals
    log.info(
        "snapshot=%s verified packs=%d blocks_read=%d of %d",
        manifest.root.snapshot_id,
        totals.packs,
        len(chosen),
        len(index.blocks),
    )
    return Verified(
        snapshot_id=manifest.root.snapshot_id,
        parent_id=manifest.root.parent_id,
        content_id=manifest.root.content_id.hex(),
        entries=totals.entries,
        files=totals.files,
        logical_bytes=totals.logical_bytes,
        referenced_bytes=totals.stored_bytes,
        packs=totals.packs,
        chunks=totals.chunks,
        blocks=len(index.blocks),
        blocks_read=len(chosen),
        bytes_read=bytes_read,
    )


class _Problems:
    """Collects what is wrong, up to a number that a person still reads."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def add(self, problem: str) -> None:
        if len(self._found) < PROBLEMS_MAX:
            self._found.append(problem)

    def raise_if_any(self) -> None:
        if self._found:
            raise SnapshotDamaged(self._found)


def _open(
    store: Store, key: str, owner_key: bytes, owner_id: str, expected_root_sha256: str, limits: Limits
) -> Manifest:
    """The manifest, its root being the one that was announced. Raises SnapshotDamaged."""
    if parse_key(key).owner_id != owner_id:
        raise SnapshotDamaged([f"{key} does not belong to owner {owner_id}"])
    try:
        manifest = load_manifest(
            StoreRemote(store, attempts=1), root_key=key, owner_key=owner_key, limits=limits
        )
    except ObjectMissing:
        raise SnapshotDamaged(
            [f"{key} is missing: the snapshot was never finished, or was deleted"]
        ) from None
    except ManifestRefused as error:
        raise SnapshotDamaged([str(error)]) from error
    if manifest.root_sha256 != expected_root_sha256:
        raise SnapshotDamaged(
            [f"{key} is not the root that was announced: its SHA-256 is {manifest.root_sha256}"]
        )
    return manifest


def _check_packs(
    store: Store, owner_id: str, index: ChunkIndex, streams: int, control: Control, problems: _Problems
) -> None:
    """Ask the store for every pack: is it there, as long as it should be, with the digest it should have?"""

    def look(record: PackRecord) -> str | None:
        control.check()
        key = pack_key(owner_id, record.pack_id)
        try:
            facts = store.head(key)
        except ObjectMissing:
            return f"{key} is missing"
        if facts.length != record.length:
            return f"{key} has {facts.length} bytes, not {record.length}"
        if facts.sha256 is not None and facts.sha256 != record.sha256.hex():
            return f"{key} has another SHA-256 than it was written with"
        return None

    for problem in ahead(look, index.packs, threads=streams):
        control.done(files=1)
        if problem is not None:
            problems.add(problem)


def _check_entries(manifest: Manifest, index: ChunkIndex, control: Control, problems: _Problems) -> None:
    """Every chunk of every file lies in a pack of this snapshot with its length; the sums are what the root says."""
    root = manifest.root
    hasher = manifest.owner_key.content_hasher()
    hasher.update(root.top.encode())
    totals = TotalsCounter()
    for entry in manifest.entries():
        hasher.update(entry.encode())
        totals.add(entry)
        for chunk_id, length in entry.extents:
            if chunk_id is not None and index.length(chunk_id) != length:
                problems.add(
                    f"{show(entry.path)} needs a chunk of {length} bytes that no pack of the snapshot has"
                )
        control.done(files=1)
    if hasher.digest() != root.content_id:
        problems.add("the entries do not make the content id that the root names")
    found = totals.result(index.packs)
    for name, count in found._asdict().items():
        if count != getattr(root.totals, name):
            problems.add(f"the root counts {getattr(root.totals, name)} {name}, there are {count}")


def _choose(index: ChunkIndex, share: float, at_least: int, seed: int) -> list[Place]:
    count = min(len(index.blocks), max(at_least, math.ceil(share * len(index.blocks))))
    return random.Random(seed).sample(index.blocks, count)


def _read_back(
    store: Store, manifest: Manifest, chosen: list[Place], streams: int, control: Control, problems: _Problems
) -> int:
    """Fetch, decode and hash these blocks. Returns the bytes that were read."""
    ranges = ranges_of(manifest.index, chosen)
    control.phase("read back", bytes_total=sum(part.length for part in ranges), files_total=len(chosen))

    def get(key: str, offset: int, length: int) -> bytes:
        try:
            return store.read(key, offset=offset, length=length)
        except ObjectMissing:
            raise DataDamaged(f"its base lies in {key}, which is missing") from None

    bases = Bases(manifest.index, manifest.owner_key, manifest.root.owner_id, get)

    def read(part: Range) -> tuple[int, list[str]]:
        control.check()
        key = pack_key(manifest.root.owner_id, part.pack.pack_id)
        try:
            data = memoryview(store.read(key, offset=part.offset, length=part.length))
        except ObjectMissing:
            return 0, []  # already among the problems
        wrong = []
        for block in part.blocks:
            at = block.offset - part.offset
            try:
                for _ in open_block(block, data[at : at + block.span], manifest.owner_key, base=bases):
                    pass
            except DataDamaged as error:
                wrong.append(f"{key}, block at {block.offset}: {error}")
        control.done(bytes_=len(data), files=len(part.blocks))
        return len(data), wrong

    bytes_read = 0
    for length, wrong in ahead(read, ranges, threads=streams):
        bytes_read += length
        for problem in wrong:
            problems.add(problem)
    return bytes_read
