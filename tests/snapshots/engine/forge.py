"""Manifests that our own writer would never make: sealed with the right key, and wrong inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from snapshots.engine.codecs import encode
from snapshots.engine.entry import Entry, Kind, content_id
from snapshots.engine.fields import pack
from snapshots.engine.frame import KIND_ENTRIES, KIND_PACKS, encode_root, encode_segment
from snapshots.engine.keys import OwnerKey, pack_key, root_key, segment_key
from snapshots.engine.pack import PackBuilder, PackRecord, make_block
from snapshots.engine.root import EntrySegment, PackSegment, Root, TotalsCounter
from snapshots.engine.store.base import Store
from tests.snapshots.engine.trees import KEY

OWNER = "u_alice"
NOW_NS = 1_700_000_000_000_000_000
TOP = Entry(b"", Kind.FOLDER, 0o755, NOW_NS, 0, 0)


def folder(path: bytes) -> Entry:
    return Entry(path, Kind.FOLDER, 0o755, NOW_NS, 0, 0)


def symlink(path: bytes, target: bytes) -> Entry:
    return Entry(path, Kind.SYMLINK, 0o777, NOW_NS, 0, 0, target=target)


def hard_link(path: bytes, target: bytes) -> Entry:
    return Entry(path, Kind.HARD_LINK, 0o644, NOW_NS, 0, 0, target=target)


def file(path: bytes, data: bytes = b"", **changes: Any) -> Entry:
    extents = ((OwnerKey(KEY).chunk_id(data), len(data)),) if data else ()
    return Entry(path, Kind.FILE, 0o644, NOW_NS, 0, 0, size=len(data), extents=extents)._replace(**changes)


def pack_of(store: Store, *chunks: bytes) -> PackRecord:
    """A pack with these chunks in one block, stored."""
    builder = PackBuilder(b"forged-pack-0001"[:16])
    builder.add(
        make_block(
            encode(b"".join(chunks)), [(OwnerKey(KEY).chunk_id(chunk), len(chunk)) for chunk in chunks]
        )
    )
    record, data = builder.seal()
    store.write(pack_key(OWNER, record.pack_id), data)
    return record


def forge(
    store: Store,
    entries: list[Any],
    packs: Sequence[PackRecord] = (),
    *,
    snapshot_id: str = "s_1",
    key: OwnerKey | None = None,
    **changes: Any,
) -> str:
    """Store a manifest of exactly these entries, in this order, true or not. Returns the root's key.

    entries: Entry, or anything that MessagePack takes. changes: fields of the root.
    """
    key = key or OwnerKey(KEY)
    raw = b"".join(encode_any(entry) for entry in entries)
    counter = TotalsCounter()
    for entry in entries:
        if isinstance(entry, Entry):
            counter.add(entry)
    totals = counter.result(packs)
    totals = totals._replace(logical_bytes=min(max(totals.logical_bytes, 0), 2**63 - 1))
    first = (
        entries[0][0]
        if entries and isinstance(entries[0], tuple) and isinstance(entries[0][0], bytes)
        else b"x"
    )
    known = [entry for entry in entries if isinstance(entry, Entry)]
    root = Root(
        owner_id=OWNER,
        snapshot_id=snapshot_id,
        parent_id=None,
        created_ns=NOW_NS,
        writer="forged",
        top=TOP,
        entries=(EntrySegment(*_segment(store, key, KIND_ENTRIES, raw), len(entries), first or b"x"),)
        if entries
        else (),
        packs=(
            (
                PackSegment(
                    *_segment(store, key, KIND_PACKS, b"".join(p.encode() for p in packs)), len(packs), 1
                ),
            )
            if packs
            else ()
        ),
        totals=totals._replace(files=totals.files + len(entries) - len(known)),
        content_id=content_id(TOP, [entry.encode() for entry in known], key),
    )._replace(**changes)
    return put_root(store, root, key)


def put_root(store: Store, root: Root, key: OwnerKey | None = None) -> str:
    name = root_key(OWNER, root.snapshot_id)
    store.write(name, encode_root(root.encode(), key or OwnerKey(KEY)))
    return name


def encode_any(value: Any) -> bytes:
    return pack(tuple(value) if isinstance(value, Entry) else value)


def _segment(store: Store, key: OwnerKey, kind: int, raw: bytes) -> tuple[bytes, bytes, int, int]:
    stored = encode_segment(kind, raw)
    segment_id = key.segment_id(stored)
    name = segment_key(OWNER, segment_id)
    if name not in [row.key for row in store.list(name)]:
        store.write(name, stored)
    return segment_id, key.plain_id(bytes([kind]) + raw), len(stored), len(raw)
