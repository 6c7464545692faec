"""Looking into a snapshot without restoring it."""

from __future__ import annotations

from collections.abc import Iterator

from snapshots.engine.bases import Bases, Get
from snapshots.engine.entry import Entry, Extent, Kind
from snapshots.engine.errors import DataDamaged, EntryMissing, ManifestRefused, show
from snapshots.engine.fetching import plan_ranges
from snapshots.engine.keys import pack_key
from snapshots.engine.limits import MIB
from snapshots.engine.manifest import Manifest
from snapshots.engine.pack import open_block
from snapshots.engine.store.base import ObjectMissing

WINDOW_BYTES = 8 * MIB
ZEROS = bytes(1 * MIB)


def iter_entries(manifest: Manifest, *, below: bytes = b"") -> Iterator[Entry]:
    """Every entry in path order, or those inside the folder `below`. Raises ManifestRefused."""
    prefix = below.rstrip(b"/") + b"/" if below else b""
    return (entry for entry in manifest.entries() if entry.path.startswith(prefix))


def find_file(manifest: Manifest, path: bytes) -> Entry:
    """The file under this path, for a hard link the one that it is another name of. Raises EntryMissing."""
    entry = manifest.find(path)
    if entry is not None and entry.kind is Kind.HARD_LINK:
        entry = manifest.find(entry.target)
    if entry is None or entry.kind is not Kind.FILE:
        raise EntryMissing(f"snapshot {manifest.root.snapshot_id} has no file {show(path)}")
    return entry


def read_file(manifest: Manifest, path: bytes) -> Iterator[bytes]:
    """A file's bytes, piece by piece, each checked against its chunk's id; about 16 MiB of memory whatever its size.

    Raises EntryMissing at once; while it is read DataDamaged, StoreError.
    """
    return _stream(manifest, find_file(manifest, path))


def _stream(manifest: Manifest, entry: Entry) -> Iterator[bytes]:
    def get(key: str, offset: int, length: int) -> bytes:
        try:
            return manifest.remote.get(key, offset=offset, length=length)
        except ObjectMissing:
            raise DataDamaged(f"{key} is missing from the store") from None

    bases = Bases(manifest.index, manifest.owner_key, manifest.root.owner_id, get)
    for window in _windows(entry):
        chunks = _fetch(manifest, entry, window, get, bases)
        for chunk_id, length in window:
            if chunk_id is not None:
                yield chunks[chunk_id]
                continue
            for at in range(0, length, len(ZEROS)):
                yield ZEROS[: min(len(ZEROS), length - at)]


def _windows(entry: Entry) -> Iterator[list[Extent]]:
    window: list[Extent] = []
    size = 0
    for chunk_id, length in entry.extents:
        window.append((chunk_id, length))
        size += length if chunk_id is not None else 0
        if size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def _fetch(
    manifest: Manifest, entry: Entry, window: list[Extent], get: Get, bases: Bases
) -> dict[bytes, bytes]:
    wanted = {chunk_id: length for chunk_id, length in window if chunk_id is not None}
    for chunk_id, length in wanted.items():
        if manifest.index.length(chunk_id) != length:
            raise ManifestRefused(
                f"{show(entry.path)} needs a chunk of {length} bytes that no pack of the snapshot has"
            )
    found: dict[bytes, bytes] = {}
    for part in plan_ranges(manifest.index, wanted):
        key = pack_key(manifest.root.owner_id, part.pack.pack_id)
        data = memoryview(get(key, part.offset, part.length))
        for block in part.blocks:
            at = block.offset - part.offset
            span = data[at : at + block.span]
            opened = open_block(block, span, manifest.owner_key, wanted=frozenset(wanted), base=bases)
            for chunk, raw in opened:
                found[chunk.chunk_id] = bytes(raw)
    return found
