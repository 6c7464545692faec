"""What the last take or restore on this machine knew of every name, so that the next take reads only what is new.

Kept beside the workspace, never inside it. A row is believed only while the name has the same device, inode, size, mtime and
ctime. That proves the bytes except in two cases, whose rows are never believed (`rows_of`): a ctime so fresh that a later write can
carry the same one, and pages that a program has mapped and dirtied, for which the kernel moves ctime only once it has written them
back. A file system that never writes back (tmpfs) is not believed at all.

The file is sealed with the owner's key: what is damaged, foreign or newer is as good as absent. It costs time, never bytes.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from snapshots.engine.entry import EncodedEntry, Kind
from snapshots.engine.keys import OwnerKey
from snapshots.engine.writeback import mapped_writes_show, written_back_within_ns

log = logging.getLogger(__name__)

MAGIC = b"DMSI\x01"
SEAL_BYTES = 32
FINE_TICK_NS, COARSE_TICK_NS = 50_000_000, 2_000_000_000
"""How long two changes can carry one ctime: a kernel's tick, or the whole seconds of old and foreign file systems."""
NEVER = -(2**62)
"""The ctime of a row that is not believed; its file may still be an older sibling of a new one."""


Identity = tuple[int, int, int, int, int]
"""(device, inode, size, mtime_ns, ctime_ns): what tells a file's content apart without reading it. Two equal ones around a read prove
the bytes (format 9.6). A plain tuple: there is one for every name in the tree, at every look."""


def identity_of(facts: os.stat_result) -> Identity:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


class Seen(NamedTuple):
    """A name, its entry as the manifest holds it, and who it was."""

    path: bytes
    raw: bytes
    identity: Identity


class StatIndex:
    """The rows of one snapshot, by path and by identity."""

    def __init__(self, root_sha256: str, rows: Sequence[Seen]) -> None:
        self.root_sha256 = root_sha256
        self._rows = {row.path: row for row in rows}
        self._moved: dict[Identity, Seen] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, path: bytes, facts: os.stat_result) -> Seen | None:
        """The row of this very name, if nothing about it has changed."""
        row = self._rows.get(path)
        return row if row is not None and row[2] == identity_of(facts) else None

    def moved(self, facts: os.stat_result) -> Seen | None:
        """The row of an unchanged file that had another name: a folder above it was renamed."""
        if self._moved is None:
            self._moved = {row.identity: row for row in self._rows.values()}
        return self._moved.get(identity_of(facts))

    def rows(self) -> Iterable[Seen]:
        return self._rows.values()


def load(path: Path, *, root_sha256: str, owner_key: OwnerKey) -> StatIndex | None:
    """The index of the snapshot with this root, None where there is none that can be believed."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    body, seal = data[:-SEAL_BYTES], data[-SEAL_BYTES:]
    if not body.startswith(MAGIC) or not hmac.compare_digest(owner_key.index_seal(body), seal):
        log.warning("%s is damaged, foreign or newer: everything is read again", path.name)
        return None
    found, rows = msgpack.unpackb(memoryview(body)[len(MAGIC) :], use_list=False)
    if found != root_sha256:
        return None
    return StatIndex(found, [Seen(path, raw, identity) for path, raw, identity in rows])


def save(path: Path, *, root_sha256: str, rows: Iterable[Seen], owner_key: OwnerKey) -> None:
    """Replace the index. Not synced: a torn file is seen by its seal. A full disk costs the index, not the snapshot."""
    body = MAGIC + _packed(root_sha256, rows)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(body + owner_key.index_seal(body))
        temporary.replace(path)
    except OSError as error:
        log.warning("%s could not be written (%s): the next take reads everything", path.name, error.strerror)
        for leftover in (temporary, path):
            with contextlib.suppress(OSError):
                leftover.unlink()


def rows_of(
    found: Iterable[tuple[EncodedEntry, os.stat_result | None]],
    *,
    looked_at_ns: int,
    mapped: bool,
    root_fd: int,
) -> Iterable[Seen]:
    """The rows of a snapshot. looked_at_ns: a time before the first of these facts was asked for.

    mapped: somebody may have these files mapped (not in a restore, whose files nobody has seen yet).
    """
    shows = mapped_writes_show(root_fd)
    slack_ns = written_back_within_ns() if mapped else 0
    for entry, facts in found:
        if facts is None or entry.kind is Kind.HARD_LINK:
            continue
        tick_ns = FINE_TICK_NS if facts.st_ctime_ns % 1_000_000_000 else COARSE_TICK_NS
        wait_ns = max(tick_ns, slack_ns) if entry.kind is Kind.FILE else tick_ns
        identity = identity_of(facts)
        if not shows or looked_at_ns - facts.st_ctime_ns < wait_ns:
            identity = (*identity[:4], NEVER)
        yield Seen(entry.path, entry.raw, identity)


def _packed(root_sha256: str, rows: Iterable[Seen]) -> bytes:
    packed: Any = msgpack.packb((root_sha256, [tuple(row) for row in rows]), use_bin_type=True)
    return bytes(packed)
