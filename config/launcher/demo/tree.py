"""What lies in a folder, name by name: hash, mode, mtime and hard links, to be compared with what a wake brought back.

Deliberately not the snapshot engine's own comparison: the demo trusts nothing that it wants to show.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One entry. digest: SHA-256 of a file, target of a link, empty for a folder. same_as: the first name, in order, that
    this file also goes by; empty where it is the first, or the only one."""

    kind: str
    mode: int
    mtime_ns: int
    size: int
    digest: str
    same_as: str = ""


def look(root: Path) -> dict[bytes, Entry]:
    """Every entry below root, by path as bytes."""
    found: dict[bytes, Entry] = {}
    first_names: dict[int, bytes] = {}
    top = os.fsencode(root)
    for folder, folders, files in os.walk(top):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, top)
            first = first_names.setdefault(os.lstat(path).st_ino, relative)
            found[relative] = _entry(path, same_as="" if first == relative else os.fsdecode(first))
    return found


def files_of(entries: dict[bytes, Entry]) -> list[Entry]:
    """The files among them, each once, however many names it goes by."""
    return [entry for entry in entries.values() if entry.kind == "file" and not entry.same_as]


def differences(before: dict[bytes, Entry], after: dict[bytes, Entry]) -> list[str]:
    """What is missing, new or other, a line each."""
    lines = [f"missing: {path!r}" for path in sorted(before.keys() - after.keys())]
    lines += [f"new: {path!r}" for path in sorted(after.keys() - before.keys())]
    for path in sorted(before.keys() & after.keys()):
        if before[path] != after[path]:
            lines.append(f"other: {path!r}: {before[path]} became {after[path]}")
    return lines


def _entry(path: bytes, *, same_as: str) -> Entry:
    facts = os.lstat(path)
    mode = stat.S_IMODE(facts.st_mode)
    if stat.S_ISLNK(facts.st_mode):
        return Entry("link", mode, facts.st_mtime_ns, 0, os.fsdecode(os.readlink(path)))
    if stat.S_ISDIR(facts.st_mode):
        return Entry("folder", mode, facts.st_mtime_ns, 0, "")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Entry("file", mode, facts.st_mtime_ns, facts.st_size, digest, same_as)
