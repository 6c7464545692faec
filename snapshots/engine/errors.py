"""What can go wrong with a snapshot. Every message says what, why and what to do; none holds a URL or a key."""

from __future__ import annotations

from collections.abc import Sequence


def show(path: bytes) -> str:
    """A path for people: undecodable bytes as \\xNN, control characters escaped, the top folder as '.'"""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) or "."


class EngineError(Exception):
    """Base of everything that the engine raises on purpose."""


class Cancelled(EngineError):
    """The caller asked to stop. No root was written; nothing appeared under the target's name."""


class SnapshotRefused(EngineError):
    """The tree cannot be snapshotted as it is. Nothing that verifies was left in the store. `path` names the culprit."""

    def __init__(self, path: bytes, why: str) -> None:
        super().__init__(f"{show(path)}: {why}")
        self.path = path


class FileChanging(SnapshotRefused):
    """A file or folder kept changing while it was read."""


class FileUnreadable(SnapshotRefused):
    """A file or folder could not be read."""


class ManifestRefused(EngineError):
    """A root, segment or entry that is damaged, forged, hostile, or newer than this reader."""


class DataDamaged(EngineError):
    """Bytes in the store are not the bytes that the manifest names."""


class SnapshotDamaged(EngineError):
    """Verification found something wrong. `problems` lists it (the first hundred)."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        more = f" (and {len(self.problems) - 3} more)" if len(self.problems) > 3 else ""
        super().__init__("; ".join(self.problems[:3]) + more)


class EntryMissing(EngineError):
    """The snapshot has no file under this path."""


class RestoreRefused(EngineError):
    """The restore did not begin: target not empty, no room, another restore at work. Nothing was changed."""


class RestoreFailed(EngineError):
    """The restore stopped half way: disk full, or the file system cannot hold an entry. The target is untouched."""
