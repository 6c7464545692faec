"""What this worker has taken on, on disk, so that a restart neither repeats nor forgets anything.

One JSON object per line, appended. Keyed by (epoch, dispatch id); events in order:

    claimed    the claim's answer; written before a child is started
    finished   how it ended, word for word as it will be reported
    closed     the control plane has the report, or does not want it: nothing is left to do

A crash can cut the last line short: it is dropped, which is right, because every effect follows its line.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agent.files import write_private
from agent.wire import Claimed, FinishPost, WireError

log = logging.getLogger("agent.journal")

CLOSED_KEPT = 1_000
"""How many closed dispatches are remembered across a restart, so that a late doorbell for one does nothing."""

COMPACT_ABOVE_BYTES = 16 << 20
"""Otherwise only at the start: scripts and environments are in it, and a worker may run for months."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One dispatch. claim is None for one that is only remembered as closed. claimed_s: boot clock, with its boot."""

    dispatch_id: str
    claim: Claimed | None = None
    claimed_s: float = 0.0
    boot_id: str = ""
    finish: FinishPost | None = None
    closed: bool = False


class Journal:
    """The entries of one epoch. Safe to use from several threads."""

    def __init__(self, path: Path, *, epoch: int) -> None:
        self._path = path
        self._epoch = epoch
        self._lock = threading.Lock()
        self._torn = False
        self._entries = _read(path, epoch=epoch)
        self._descriptor = self._compacted()

    def get(self, dispatch_id: str) -> Entry | None:
        with self._lock:
            return self._entries.get(dispatch_id)

    def open_entries(self) -> list[Entry]:
        """Everything that a restart has to take up again, oldest first."""
        with self._lock:
            return [entry for entry in self._entries.values() if not entry.closed]

    def claimed(self, claim: Claimed, *, claimed_s: float, boot_id: str) -> Entry:
        """On return the line outlives this process; `sync` makes it outlive the machine as well."""
        entry = Entry(dispatch_id=claim.dispatch_id, claim=claim, claimed_s=claimed_s, boot_id=boot_id)
        self._append(entry, "claimed", {"claim": asdict(claim), "claimed_s": claimed_s, "boot_id": boot_id})
        return entry

    def finished(self, dispatch_id: str, finish: FinishPost) -> None:
        entry = self._entries[dispatch_id]
        self._append(replace(entry, finish=finish), "finished", {"finish": asdict(finish)})
        self.sync()

    def closed(self, dispatch_id: str) -> None:
        self._append(Entry(dispatch_id=dispatch_id, closed=True), "closed", {})
        self.sync()
        with self._lock:
            if os.fstat(self._descriptor).st_size > COMPACT_ABOVE_BYTES:
                # Closed only once there is another: its number would soon be some other file's.
                before, self._descriptor = self._descriptor, self._compacted()
                os.close(before)

    def sync(self) -> None:
        with self._lock:
            os.fsync(self._descriptor)

    def _append(self, entry: Entry, event: str, fields: Mapping[str, Any]) -> None:
        line = _line(event, self._epoch, entry.dispatch_id, fields)
        with self._lock:
            # What was found out counts in this process even where the disk is full.
            self._entries[entry.dispatch_id] = entry
            # One write of one line to a file opened for appending: a kill leaves it whole or leaves it out.
            # After a write that a full disk cut short, the next line begins on a line of its own.
            whole, self._torn = (b"\n" + line if self._torn else line), True
            if os.write(self._descriptor, whole) != len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            self._torn = False

    def _compacted(self) -> int:
        """Write the file anew with what still counts, or leave it where the disk has no room for that.

        A descriptor that appends to it.
        """
        closed = [entry for entry in self._entries.values() if entry.closed]
        for entry in closed[:-CLOSED_KEPT]:
            del self._entries[entry.dispatch_id]
        lines: list[bytes] = []
        for entry in self._entries.values():
            if entry.closed:
                lines.append(_line("closed", self._epoch, entry.dispatch_id, {}))
                continue
            if entry.claim is not None:
                fields = {
                    "claim": asdict(entry.claim),
                    "claimed_s": entry.claimed_s,
                    "boot_id": entry.boot_id,
                }
                lines.append(_line("claimed", self._epoch, entry.dispatch_id, fields))
            if entry.finish is not None:
                lines.append(
                    _line("finished", self._epoch, entry.dispatch_id, {"finish": asdict(entry.finish)})
                )
        try:
            write_private(self._path, b"".join(lines).decode("utf-8"))
        except OSError as error:
            log.error("journal not compacted: %s", error)
            self._torn = True  # its last line may be cut short
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _line(event: str, epoch: int, dispatch_id: str, fields: Mapping[str, Any]) -> bytes:
    return json.dumps({"event": event, "epoch": epoch, "id": dispatch_id, **fields}).encode() + b"\n"


def _read(path: Path, *, epoch: int) -> dict[str, Entry]:
    """Lines of other epochs are another box's history and of no use here."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    entries: dict[str, Entry] = {}
    for number, line in enumerate(raw.splitlines(), start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
            if record["epoch"] == epoch:
                entries[record["id"]] = _apply(entries.get(record["id"]), record)
        except (ValueError, KeyError, TypeError, WireError) as error:
            log.warning("journal line %d cannot be read, dropped: %s", number, error)
    return entries


def _apply(entry: Entry | None, record: Mapping[str, Any]) -> Entry:
    entry = entry or Entry(dispatch_id=record["id"])
    match record["event"]:
        case "claimed":
            claim = Claimed.from_json(record["claim"])
            return replace(
                entry, claim=claim, claimed_s=float(record["claimed_s"]), boot_id=str(record["boot_id"])
            )
        case "finished":
            return replace(entry, finish=FinishPost(**record["finish"]))
        case "closed":
            return Entry(dispatch_id=record["id"], closed=True)
        case unknown:
            raise WireError(f"event {unknown!r} is unknown; was a newer agent here?")
