"""Looking into generations without a GPU machine."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from itertools import islice
from typing import Any

from core.errors import Busy, DomainError, NotFound
from snapshots.engine.errors import EngineError, EntryMissing, show
from snapshots.engine.manifest import Manifest, load_manifest
from snapshots.engine.reader import find_file, iter_entries, read_file
from snapshots.engine.remote import StoreRemote
from snapshots.engine.store.base import StoreBusy
from snapshots.models import Snapshot
from snapshots.services.owners import key_bytes, owner_key
from snapshots.services.store import store
from snapshots.states import SnapshotState

READABLE = (SnapshotState.COMMITTED, SnapshotState.VERIFIED, SnapshotState.DAMAGED)


def manifest_of(snapshot: Snapshot) -> Manifest:
    """The generation's manifest. DomainError where there is none to read, Busy where the store cannot be asked."""
    if snapshot.state not in READABLE:
        raise DomainError(
            f"snapshot {snapshot.pk} is {snapshot.state}: there is nothing in it to look at",
            hint="look at a verified one",
            code="snapshot_not_readable",
        )
    try:
        return load_manifest(
            StoreRemote(store(), attempts=1),
            root_key=snapshot.root_key,
            owner_key=key_bytes(owner_key(snapshot.owner)),
        )
    except StoreBusy as error:
        raise Busy(
            f"the store could not be asked: {error}", retry_after_s=error.retry_after_s or 5
        ) from error
    except EngineError as error:
        raise DomainError(str(error), hint="verify it again", code="snapshot_damaged") from error


def files(snapshot: Snapshot, *, prefix: str = "", after: str = "", limit: int = 500) -> list[dict[str, Any]]:
    """Entries in path order: path, kind, mode, size, mtime_ns. prefix: a folder. after: the last path of the page before.

    Paths are text as `show` writes them, so that a name that is no UTF-8 can be told and asked for.
    """
    entries = iter_entries(manifest_of(snapshot), below=path_bytes(prefix))
    rows = (
        {
            "path": show(entry.path),
            "kind": entry.kind.name.lower().replace("_", " "),
            "mode": f"{stat.S_IMODE(entry.mode):04o}",
            "size": entry.size,
            "mtime_ns": entry.mtime_ns,
        }
        for entry in entries
    )
    if after:
        for row in rows:
            if row["path"] == after:
                break
    return list(islice(rows, limit))


def file_content(snapshot: Snapshot, path: str) -> tuple[int, Iterator[bytes]]:
    """A file's size and its bytes, piece by piece, each checked against its hash. NotFound where it has no such file."""
    manifest = manifest_of(snapshot)
    wanted = path_bytes(path)
    try:
        return find_file(manifest, wanted).size, read_file(manifest, wanted)
    except EntryMissing as error:
        raise NotFound(
            str(error), hint=f"GET /api/snapshots/{snapshot.pk}/files lists what it has"
        ) from error


def path_bytes(path: str) -> bytes:
    """The bytes of a path that was written by `show`: \\xNN stands for a byte that is no UTF-8."""
    out, rest = bytearray(), path.strip("/")
    while rest:
        head, escape, tail = rest.partition("\\x")
        out += head.encode("utf-8", "surrogateescape")
        if not escape:
            break
        digits = tail[:2]
        if len(digits) == 2 and all(digit in "0123456789abcdef" for digit in digits):
            out.append(int(digits, 16))
            rest = tail[2:]
        else:
            out += escape.encode()
            rest = tail
    return bytes(out)
