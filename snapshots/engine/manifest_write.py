"""Writing a manifest: segments that change as little as the tree did, and the root last."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from blake3 import blake3

from snapshots.engine.entry import Entry, TreeRules, parse_entry
from snapshots.engine.fields import unpack_stream
from snapshots.engine.frame import KIND_ENTRIES, KIND_PACKS, encode_root, encode_segment
from snapshots.engine.keys import OwnerKey, root_key, segment_key
from snapshots.engine.limits import MIB, Limits
from snapshots.engine.manifest import Manifest
from snapshots.engine.pack import PackRecord
from snapshots.engine.remote.base import ObjectPlan
from snapshots.engine.root import EntrySegment, PackSegment, Root, TotalsCounter
from snapshots.engine.upload import Uploader

ENTRIES_MIN, ENTRIES_MAX, ENTRIES_EVERY = 1_024, 16_384, 4_096
"""Segments end, by chance of the path, about every 4,096 entries: a new file then moves no other segment's edge."""
SEGMENT_BYTES = 8 * MIB
CHUNK_ROWS_MIN, CHUNK_ROWS_MAX = 4_096, 16_384
"""A segment of pack records with fewer rows is written anew together with new ones, so that small ones do not pile up."""


class Snapshot(NamedTuple):
    """What a manifest is made from. parent: the manifest against which chunks were left out."""

    owner_id: str
    snapshot_id: str
    parent: Manifest | None
    created_ns: int
    writer: str
    top: Entry
    entries: Sequence[Entry]
    packs: Sequence[PackRecord]


class Written(NamedTuple):
    """objects: everything that was uploaded, packs included, `plan` (the root) last."""

    root: Root
    plan: ObjectPlan
    objects: tuple[ObjectPlan, ...]


def write_manifest(snapshot: Snapshot, *, owner_key: OwnerKey, uploader: Uploader, limits: Limits) -> Written:
    """Send the segments, wait until all are acknowledged, then send the root. The packs must have been acknowledged before.

    Raises ManifestRefused if a reader with these limits would refuse it, before anything is sent.
    """
    reused = _plain_ids(snapshot.parent)
    hasher = owner_key.content_hasher()
    hasher.update(snapshot.top.encode())
    rules, totals = TreeRules(limits), TotalsCounter()
    entry_segments = []
    for raw, count, first_path in _cut_entries(snapshot.entries):
        hasher.update(raw)
        for value in unpack_stream(raw):
            entry = parse_entry(value)
            rules.admit(entry)
            totals.add(entry)
        columns = _send(KIND_ENTRIES, raw, reused, snapshot.owner_id, owner_key, uploader)
        entry_segments.append(EntrySegment(*columns, count, first_path))
    kept, loose = _live_packs(snapshot)
    pack_segments = [segment for segment, _ in kept]
    for records in _cut_packs(loose):
        raw = b"".join(record.encode() for record in records)
        columns = _send(KIND_PACKS, raw, reused, snapshot.owner_id, owner_key, uploader)
        pack_segments.append(PackSegment(*columns, len(records), sum(record.chunks for record in records)))
    root = Root(
        owner_id=snapshot.owner_id,
        snapshot_id=snapshot.snapshot_id,
        parent_id=None if snapshot.parent is None else snapshot.parent.root.snapshot_id,
        created_ns=snapshot.created_ns,
        writer=snapshot.writer,
        top=snapshot.top,
        entries=tuple(entry_segments),
        packs=tuple(pack_segments),
        totals=totals.result([record for _, records in kept for record in records] + loose),
        content_id=hasher.digest(),
    )
    stored = encode_root(root.encode(), owner_key)
    key = root_key(snapshot.owner_id, snapshot.snapshot_id)
    plan = ObjectPlan(key, len(stored), hashlib.sha256(stored).hexdigest())
    return Written(root, plan, uploader.put_last(plan, stored))


Columns = tuple[bytes, bytes, int, int]


def _plain_ids(parent: Manifest | None) -> dict[bytes, Columns]:
    if parent is None:
        return {}
    segments: tuple[EntrySegment | PackSegment, ...] = (*parent.root.entries, *parent.root.packs)
    return {
        segment.plain_id: (segment.segment_id, segment.plain_id, segment.stored_length, segment.raw_length)
        for segment in segments
    }


def _send(
    kind: int,
    raw: bytes,
    reused: dict[bytes, Columns],
    owner_id: str,
    owner_key: OwnerKey,
    uploader: Uploader,
) -> Columns:
    """Id, plain id and lengths of a segment; sent unless the parent has the very same one."""
    plain_id = owner_key.plain_id(bytes([kind]) + raw)
    if plain_id in reused:
        return reused[plain_id]
    stored = encode_segment(kind, raw)
    segment_id = owner_key.segment_id(stored)
    plan = ObjectPlan(segment_key(owner_id, segment_id), len(stored), hashlib.sha256(stored).hexdigest())
    uploader.put(plan, stored)
    reused[plain_id] = (segment_id, plain_id, len(stored), len(raw))
    return reused[plain_id]


def _cut_entries(entries: Iterable[Entry]) -> Iterator[tuple[bytes, int, bytes]]:
    """(raw bytes, number of entries, first path). The cuts hang on the paths, so that a new file moves none of the others."""
    parts: list[bytes] = []
    size, first = 0, b""
    for entry in entries:
        first = first if parts else entry.path
        parts.append(entry.encode())
        size += len(parts[-1])
        at_mark = len(parts) >= ENTRIES_MIN and _is_mark(entry.path)
        if at_mark or len(parts) >= ENTRIES_MAX or size >= SEGMENT_BYTES:
            yield b"".join(parts), len(parts), first
            parts, size = [], 0
    if parts:
        yield b"".join(parts), len(parts), first


def _is_mark(path: bytes) -> bool:
    return int.from_bytes(blake3(path).digest(4), "little") % ENTRIES_EVERY == 0


def _live_packs(snapshot: Snapshot) -> tuple[list[tuple[PackSegment, list[PackRecord]]], list[PackRecord]]:
    """(the parent's segments that can stay as they are, all other packs that the snapshot needs)."""
    used = {chunk_id for entry in snapshot.entries for chunk_id, _ in entry.extents if chunk_id is not None}
    fresh = [record for record in snapshot.packs if _is_used(record, used)]
    for record in fresh:
        used.difference_update(chunk.chunk_id for block in record.blocks for chunk in block.chunks())
    kept, loose = [], []
    for segment, records in snapshot.parent.packs_by_segment if snapshot.parent is not None else ():
        live = [record for record in records if _is_used(record, used)]
        if len(live) == len(records) and (segment.chunks >= CHUNK_ROWS_MIN or not fresh):
            kept.append((segment, records))
        else:
            loose += live
    return kept, loose + fresh


def _is_used(record: PackRecord, used: set[bytes]) -> bool:
    return any(chunk.chunk_id in used for block in record.blocks for chunk in block.chunks())


def _cut_packs(records: Iterable[PackRecord]) -> Iterator[list[PackRecord]]:
    run: list[PackRecord] = []
    rows = 0
    for record in records:
        run.append(record)
        rows += record.chunks
        if rows >= CHUNK_ROWS_MAX:
            yield run
            run, rows = [], 0
    if run:
        yield run
