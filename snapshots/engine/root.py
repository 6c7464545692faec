"""The root of a snapshot: the small object that is written last (format 7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from snapshots.engine.entry import EncodedEntry, Entry, Kind, parse_entry
from snapshots.engine.errors import ManifestRefused
from snapshots.engine.fields import octets, pack, refuse, row, rows, text, unpack, whole
from snapshots.engine.keys import ID_BYTES
from snapshots.engine.limits import PATH_BYTES_MAX, SEGMENT_RAW_MAX, SEGMENT_STORED_MAX, SEGMENTS_MAX
from snapshots.engine.pack import PackRecord

KNOWN_FEATURES: frozenset[int] = frozenset()


class EntrySegment(NamedTuple):
    """A run of entries. first_path: of its first entry."""

    segment_id: bytes
    plain_id: bytes
    stored_length: int
    raw_length: int
    entries: int
    first_path: bytes


class PackSegment(NamedTuple):
    """The records of some packs."""

    segment_id: bytes
    plain_id: bytes
    stored_length: int
    raw_length: int
    packs: int
    chunks: int


class Totals(NamedTuple):
    """others: fifos, sockets, devices. stored_bytes: of all packs that are named."""

    files: int = 0
    folders: int = 0
    symlinks: int = 0
    hard_links: int = 0
    others: int = 0
    logical_bytes: int = 0
    chunks: int = 0
    packs: int = 0
    stored_bytes: int = 0

    @property
    def entries(self) -> int:
        return self.files + self.folders + self.symlinks + self.hard_links + self.others


class TotalsCounter:
    """Feed it every entry but the top."""

    def __init__(self) -> None:
        self._kinds: Counter[Kind] = Counter()
        self._logical_bytes = 0

    def add(self, entry: Entry | EncodedEntry) -> None:
        self._kinds[entry.kind] += 1
        self._logical_bytes += entry.size

    def result_like(self, before: Totals) -> Totals:
        """With the packs of an earlier snapshot, every one of which is still needed."""
        counted = self.result(())
        return counted._replace(chunks=before.chunks, packs=before.packs, stored_bytes=before.stored_bytes)

    def result(self, packs: Sequence[PackRecord]) -> Totals:
        named = (Kind.FILE, Kind.FOLDER, Kind.SYMLINK, Kind.HARD_LINK)
        files, folders, symlinks, hard_links = (self._kinds[kind] for kind in named)
        return Totals(
            files=files,
            folders=folders,
            symlinks=symlinks,
            hard_links=hard_links,
            others=self._kinds.total() - files - folders - symlinks - hard_links,
            logical_bytes=self._logical_bytes,
            chunks=sum(record.chunks for record in packs),
            packs=len(packs),
            stored_bytes=sum(record.length for record in packs),
        )


class Root(NamedTuple):
    owner_id: str
    snapshot_id: str
    parent_id: str | None
    created_ns: int
    writer: str
    top: Entry
    entries: tuple[EntrySegment, ...]
    packs: tuple[PackSegment, ...]
    totals: Totals
    content_id: bytes

    def encode(self) -> bytes:
        return pack(
            {
                "owner": self.owner_id,
                "snapshot": self.snapshot_id,
                "parent": self.parent_id,
                "created_ns": self.created_ns,
                "writer": self.writer,
                "features": (),
                "top": tuple(self.top),
                "entries": tuple(tuple(segment) for segment in self.entries),
                "packs": tuple(tuple(segment) for segment in self.packs),
                "totals": self.totals._asdict(),
                "content_id": self.content_id,
            }
        )


def parse_root(raw: bytes) -> Root:
    """Raises ManifestRefused. Names that it does not know are ignored, features that it does not know are not."""
    fields = unpack(raw)
    if type(fields) is not dict:
        refuse("the root is not a map")
    for feature in rows(fields.get("features"), "features", high=64):
        if feature not in KNOWN_FEATURES:
            raise ManifestRefused(
                f"this snapshot needs feature {feature!r}: a newer version wrote it; update this program"
            )
    parent = fields.get("parent")
    totals = fields.get("totals")
    if type(totals) is not dict:
        refuse("totals is not a map")
    root = Root(
        owner_id=text(fields.get("owner"), "owner"),
        snapshot_id=text(fields.get("snapshot"), "snapshot"),
        parent_id=None if parent is None else text(parent, "parent"),
        created_ns=whole(fields.get("created_ns"), "created_ns"),
        writer=text(fields.get("writer"), "writer"),
        top=parse_entry(fields.get("top"), top=True),
        entries=tuple(
            EntrySegment(*_segment(value), octets(value[5], "a first path", low=1, high=PATH_BYTES_MAX))
            for value in rows(fields.get("entries"), "entries", high=SEGMENTS_MAX)
        ),
        packs=tuple(
            PackSegment(*_segment(value), whole(value[5], "chunks of a segment"))
            for value in rows(fields.get("packs"), "packs", high=SEGMENTS_MAX)
        ),
        totals=Totals(**{name: whole(totals.get(name), f"total of {name}") for name in Totals._fields}),
        content_id=octets(fields.get("content_id"), "content_id", low=ID_BYTES, high=ID_BYTES),
    )
    if sum(segment.entries for segment in root.entries) != root.totals.entries:
        refuse("its segments do not have as many entries as its totals say")
    return root


def _segment(value: Any) -> tuple[bytes, bytes, int, int, int]:
    """The five columns that both kinds of segment have."""
    segment_id, plain_id, stored_length, raw_length, count, _ = row(value, "a segment", 6)
    return (
        octets(segment_id, "a segment id", low=ID_BYTES, high=ID_BYTES),
        octets(plain_id, "a plain id", low=ID_BYTES, high=ID_BYTES),
        whole(stored_length, "a segment's stored length", low=1, high=SEGMENT_STORED_MAX),
        whole(raw_length, "a segment's raw length", low=1, high=SEGMENT_RAW_MAX),
        whole(count, "a segment's count", low=1),
    )
