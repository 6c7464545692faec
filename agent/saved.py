"""Whether all that is in the workspace is in a verified snapshot: what the tree looked like when the last one began."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Collection
from pathlib import Path

from agent.files import read_json, write_json

log = logging.getLogger("agent.saved")

SAVED_FILE = "saved.json"


def fingerprint(folder: Path) -> str:
    """Changes with every name, size, inode, mode and time of change below the folder. OSError where a part cannot be seen.

    No file is read. The kernel moves a file's ctime with every change of it, and nobody can set it back.
    """
    digest = hashlib.sha256()
    ahead = [os.fsencode(folder)]
    digest.update(_line(b"", os.lstat(ahead[0])))
    while ahead:
        here = ahead.pop()
        with os.scandir(here) as found:
            rows = sorted(found, key=lambda row: row.name)
        for row in rows:
            facts = row.stat(follow_symlinks=False)
            digest.update(_line(row.path, facts))
            if stat.S_ISDIR(facts.st_mode):
                ahead.append(row.path)
    return digest.hexdigest()


class Saved:
    """A note in the state directory. Written when a snapshot has been uploaded, believed once the control plane has said
    that it is verified."""

    def __init__(self, state_dir: Path, workspace: Path | None) -> None:
        self._path = state_dir / SAVED_FILE
        self._workspace = workspace
        kept = read_json(self._path) or {}
        self._snapshot_id = str(kept.get("snapshot_id") or "")
        self._fingerprint = str(kept.get("fingerprint") or "")
        self._verified = kept.get("verified") is True

    @property
    def is_verified(self) -> bool:
        return self._verified and bool(self._snapshot_id)

    def look(self) -> str:
        """The workspace's fingerprint now; empty where it cannot be had."""
        if self._workspace is None:
            return ""
        try:
            return fingerprint(self._workspace)
        except OSError as error:
            log.warning("the workspace cannot be looked through: %s", error)
            return ""

    def uploaded(self, snapshot_id: str, before: str) -> None:
        """before: what `look` said before the snapshot read the first byte."""
        self._snapshot_id, self._fingerprint, self._verified = snapshot_id, before, False
        self._write()

    def told(self, verified_ids: Collection[str]) -> None:
        """What the control plane says now; a generation that it no longer vouches for counts for nothing."""
        verified = self._snapshot_id in verified_ids
        if self._snapshot_id and verified != self._verified:
            self._verified = verified
            self._write()

    def is_everything(self) -> bool:
        """Whether the workspace is, name for name, what the verified snapshot found."""
        return self.is_verified and bool(self._fingerprint) and self.look() == self._fingerprint

    def _write(self) -> None:
        kept = {
            "snapshot_id": self._snapshot_id,
            "fingerprint": self._fingerprint,
            "verified": self._verified,
        }
        try:
            write_json(self._path, kept)
        except OSError as error:
            log.warning("not noted what is saved: %s", error)


def _line(path: bytes, facts: os.stat_result) -> bytes:
    seen = (facts.st_ino, facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    return path + b"\0" + repr(seen).encode() + b"\n"
