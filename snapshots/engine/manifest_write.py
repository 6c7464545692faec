"""Writing a manifest: segments that change as little as the tree did, and the root last."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

from snapshots.engine.entry import EncodedEntry, Entry, Kind, TreeRules, decode_entry
from snapshots.engine.errors import show
from snapshots.engine.fields import refuse
from snapshots.engine.frame import KIND_ENTRIES, KIND_PACKS, encode_root, encode_segment
from snapshots.engine.keys import OwnerKey, root_key, segment_key
from snapshots.engine.limits import MIB, SEGMENT_RAW_MAX, Limits
from snapshots.engine.manifest import Manifest
from snapshots.engine.pack import PackRecord
from snapshots.engine.remote.base import ObjectPlan
from snapshots.engine.root import EntrySegment, PackSegment, Root, Totals, TotalsCounter
from snapshots.engine.upload import Uploader

ENTRIES_MIN, ENTRIES_MAX, ENTRIES_EVERY = 1_024, 16_384, 4_096
"""Segments end, by chance of the path, about every 4,096 entries: a new file then moves no other segment's edge."""
SEGMENT_BYTES = 8 * MIB
CHUNK_ROWS_MIN, CHUNK_ROWS_MAX = 4_096, 16_384
"""A segment of pack records with fewer rows is written anew together with new ones, so that small ones do not pile up."""


class Snapshot(NamedTuple):
    """What a manifest is made from. parent: the manifest against which chunks were left out.

    same_files: the files are those of the parent, one for one: the same packs are needed.
    """

    owner_id: str
    snapshot_id: str
    parent: Manifest | None
    created_ns: int
    writer: str
    top: Entry
    entries: Sequence[EncodedEntry]
    packs: Sequence[PackRecord]
    same_files: bool = False
    encrypted: bool = False


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
    for entry in snapshot.entries:
        rules.count(entry)
        totals.add(entry)
    for raw, count, first_path in _cut_entries(snapshot.entries):
        hasher.update(raw)
        if len(raw) > SEGMENT_RAW_MAX:
            refuse(f"{show(first_path)} has too many chunks for one entry")
        columns = _send(KIND_ENTRIES, raw, reused, snapshot, owner_key, uploader)
        entry_segments.append(EntrySegment(*columns, count, first_path))
    if snapshot.parent is not None and snapshot.same_files:
        pack_segments = list(snapshot.parent.root.packs)
        counted = totals.result_like(snapshot.parent.root.totals)
        return _finish(snapshot, entry_segments, pack_segments, counted, hasher.digest(), owner_key, uploader)
    kept, loose = _live_packs(snapshot)
    pack_segments = [segment for segment, _ in kept]
    for records in _cut_packs(loose):
        raw = b"".join(record.encode() for record in records)
        columns = _send(KIND_PACKS, raw, reused, snapshot, owner_key, uploader)
        pack_segments.append(PackSegment(*columns, len(records), sum(record.chunks for record in records)))
    counted = totals.result([record for _, records in kept for record in records] + loose)
    return _finish(snapshot, entry_segments, pack_segments, counted, hasher.digest(), owner_key, uploader)


def _finish(
    snapshot: Snapshot,
    entry_segments: Sequence[EntrySegment],
    pack_segments: Sequence[PackSegment],
    totals: Totals,
    content_id: bytes,
    owner_key: OwnerKey,
    uploader: Uploader,
) -> Written:
    root = Root(
        owner_id=snapshot.owner_id,
        snapshot_id=snapshot.snapshot_id,
        parent_id=None if snapshot.parent is None else snapshot.parent.root.snapshot_id,
        created_ns=snapshot.created_ns,
        writer=snapshot.writer,
        top=snapshot.top,
        entries=tuple(entry_segments),
        packs=tuple(pack_segments),
        totals=totals,
        content_id=content_id,
    )
    stored = encode_root(root.encode(), owner_key, encrypted=snapshot.encrypted)
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
    snapshot: Snapshot,
    owner_key: OwnerKey,
    uploader: Uploader,
) -> Columns:
    """Id, plain id and lengths of a segment; sent unless the parent has the very same one."""
    plain_id = owner_key.plain_id(bytes([kind]) + raw)
    if plain_id in reused:
        return reused[plain_id]
    stored = encode_segment(kind, raw, owner_key.cipher if snapshot.encrypted else None)
    segment_id = owner_key.segment_id(stored)
    plan = ObjectPlan(
        segment_key(snapshot.owner_id, segment_id), len(stored), hashlib.sha256(stored).hexdigest()
    )
    uploader.put(plan, stored)
    reused[plain_id] = (segment_id, plain_id, len(stored), len(raw))
    return reused[plain_id]


def _cut_entries(entries: Iterable[EncodedEntry]) -> Iterator[tuple[bytes, int, bytes]]:
    """(raw bytes, number of entries, first path). The cuts hang on the paths, so that a new file moves none of the others."""
    parts: list[bytes] = []
    size, first = 0, b""
    for entry in entries:
        first = first if parts else entry.path
        parts.append(entry.raw)
        size += len(parts[-1])
        at_mark = len(parts) >= ENTRIES_MIN and _is_mark(entry.path)
        if at_mark or len(parts) >= ENTRIES_MAX or size >= SEGMENT_BYTES:
            yield b"".join(parts), len(parts), first
            parts, size = [], 0
    if parts:
        yield b"".join(parts), len(parts), first


def _is_mark(path: bytes) -> bool:
    return crc32(path) % ENTRIES_EVERY == 0


def _live_packs(snapshot: Snapshot) -> tuple[list[tuple[PackSegment, list[PackRecord]]], list[PackRecord]]:
    """(the parent's segments that can stay as they are, all other packs that the snapshot needs)."""
    used = {
        chunk_id
        for entry in snapshot.entries
        if entry.kind is Kind.FILE
        for chunk_id, _ in decode_entry(entry.raw).extents
        if chunk_id is not None
    }
    parents = snapshot.parent.packs_by_segment if snapshot.parent is not None else []
    used |= _bases_of(used, [*snapshot.packs, *(record for _, records in parents for record in records)])
    fresh = [record for record in snapshot.packs if _is_used(record, used)]
    for record in fresh:
        used.difference_update(chunk.chunk_id for block in record.blocks for chunk in block.chunks())
    kept, loose = [], []
    for segment, records in parents:
        live = [record for record in records if _is_used(record, used)]
        if len(live) == len(records) and (segment.chunks >= CHUNK_ROWS_MIN or not fresh):
            kept.append((segment, records))
        else:
            loose += live
    return kept, loose + fresh


def _bases_of(used: set[bytes], packs: Iterable[PackRecord]) -> set[bytes]:
    """What a delta builds on is needed as long as the delta is."""
    return {
        block.base_id for record in packs for block in record.blocks if block.is_delta and block.ids in used
    }


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
