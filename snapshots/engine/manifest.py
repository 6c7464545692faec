"""Reading a snapshot's manifest: the root, and what hangs on it. Everything is checked before it is handed out."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TypeVar

from snapshots.engine.entry import Entry, TreeRules, parse_entry, path_order
from snapshots.engine.errors import ManifestRefused
from snapshots.engine.fields import refuse, unpack_stream
from snapshots.engine.frame import KIND_ENTRIES, KIND_PACKS, decode_root, decode_segment, is_encrypted
from snapshots.engine.index import ChunkIndex
from snapshots.engine.keys import ObjectKind, OwnerKey, parse_key, segment_key
from snapshots.engine.limits import DEFAULT_LIMITS, ROOT_STORED_MAX, Limits
from snapshots.engine.pack import PackRecord, parse_pack_record
from snapshots.engine.parallel import ahead
from snapshots.engine.remote.base import Remote
from snapshots.engine.root import EntrySegment, PackSegment, Root, parse_root
from snapshots.engine.store.base import ObjectMissing, ObjectTooLong

SEGMENTS_AHEAD = 8
S = TypeVar("S", EntrySegment, PackSegment)


class Manifest:
    """A root whose seal was checked. Segments are fetched, checked and decoded as they are asked for."""

    def __init__(
        self, remote: Remote, root: Root, owner_key: OwnerKey, limits: Limits, *, stored_root: bytes
    ) -> None:
        self.root = root
        self.root_sha256 = hashlib.sha256(stored_root).hexdigest()
        self.is_encrypted = is_encrypted(stored_root)
        self.owner_key = owner_key
        self.remote = remote
        self._limits = limits

    def entries(self) -> Iterator[Entry]:
        """Every entry but the top folder, in path order, as a tree that follows all rules. Raises ManifestRefused."""
        return self._entries(self.root.entries, TreeRules(self._limits))

    def find(self, path: bytes) -> Entry | None:
        """The entry of this path. Reads one segment. Raises ManifestRefused."""
        order = path_order(path)
        at = bisect_right(self.root.entries, order, key=lambda segment: path_order(segment.first_path)) - 1
        if at < 0:
            return None
        for _, raw in self._segments(KIND_ENTRIES, self.root.entries[at : at + 1]):
            for value in unpack_stream(raw):
                entry = parse_entry(value)
                if entry.path == path:
                    return entry
        return None

    def packs(self) -> Iterator[PackRecord]:
        """Every pack that the snapshot names, each once. Raises ManifestRefused."""
        for _, records in self.packs_by_segment:
            yield from records

    @cached_property
    def packs_by_segment(self) -> list[tuple[PackSegment, list[PackRecord]]]:
        """Raises ManifestRefused."""
        found, seen = [], set()
        for segment, raw in self._segments(KIND_PACKS, self.root.packs):
            records = [parse_pack_record(value) for value in unpack_stream(raw)]
            for record in records:
                if record.pack_id in seen:
                    refuse(f"pack {record.pack_id.hex()} is named twice")
                seen.add(record.pack_id)
            if len(records) != segment.packs:
                refuse(f"a segment names {len(records)} packs, the root says {segment.packs}")
            found.append((segment, records))
        return found

    @cached_property
    def index(self) -> ChunkIndex:
        """Where every chunk is. Holds about 200 bytes a chunk. Raises ManifestRefused."""
        index = ChunkIndex(self.packs())
        index.check_bases()
        return index

    def _entries(self, segments: Iterable[EntrySegment], rules: TreeRules) -> Iterator[Entry]:
        for segment, raw in self._segments(KIND_ENTRIES, segments):
            count = 0
            for value in unpack_stream(raw):
                entry = parse_entry(value)
                rules.admit(entry)
                if count == 0 and entry.path != segment.first_path:
                    refuse("a segment does not begin with the path that the root says")
                count += 1
                yield entry
            if count != segment.entries:
                refuse(f"a segment has {count} entries, the root says {segment.entries}")

    def _segments(self, kind: int, segments: Iterable[S]) -> Iterator[tuple[S, bytes]]:
        return ahead(
            lambda segment: (segment, self._segment(kind, segment)), segments, threads=SEGMENTS_AHEAD
        )

    def _segment(self, kind: int, segment: EntrySegment | PackSegment) -> bytes:
        key = segment_key(self.root.owner_id, segment.segment_id)
        try:
            stored = self.remote.fetch(key, max_length=segment.stored_length)
        except ObjectMissing:
            raise ManifestRefused(
                f"segment {segment.segment_id.hex()[:16]} is missing from the store"
            ) from None
        except ObjectTooLong:
            refuse(f"segment {segment.segment_id.hex()[:16]} is longer than the root says")
        return decode_segment(
            stored,
            kind=kind,
            segment_id=segment.segment_id,
            raw_length=segment.raw_length,
            owner_key=self.owner_key,
        )


def load_manifest(
    remote: Remote, *, root_key: str, owner_key: bytes, limits: Limits = DEFAULT_LIMITS
) -> Manifest:
    """Fetch and check the root of one snapshot.

    Raises ObjectMissing: no such snapshot. ManifestRefused: forged, damaged, another snapshot's, or from a newer version.
    """
    name = parse_key(root_key)
    if name.kind is not ObjectKind.ROOT:
        raise ManifestRefused(f"{root_key} is not the key of a root (o/<owner>/m/<snapshot>)")
    try:
        stored = remote.fetch(root_key, max_length=ROOT_STORED_MAX)
    except ObjectTooLong as error:
        refuse(str(error))
    key = OwnerKey(owner_key)
    root = parse_root(decode_root(stored, key))
    if (root.owner_id, root.snapshot_id) != (name.owner_id, name.name):
        raise ManifestRefused(
            f"{root_key} holds the root of snapshot {root.snapshot_id} of owner {root.owner_id}: objects were swapped"
        )
    return Manifest(remote, root, key, limits, stored_root=stored)
