"""Paths and globs that one side names and the other looks for: relative, `/` between names, nothing that leads out.

A glob's names may hold `*` (any characters) and `?` (one); a name that is `**` stands for any number of folders, none
included. Everything else means itself. Matching takes time in proportion to pattern times path, whatever they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.wire_fields import WireError

PATH_CHARS = 400
NAME_BYTES = 255
"""What file systems take for one name."""


def check_path(path: str) -> str:
    """The path itself, or WireError with the reason: relative, no empty name, no `.` or `..`, no control characters."""
    if not path or len(path) > PATH_CHARS:
        raise WireError(f"a path has 1 to {PATH_CHARS} characters, {path[:60]!r} has {len(path)}")
    if path.startswith("/"):
        raise WireError(f"path {path[:60]!r} is absolute: write it relative to the job's folder")
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise WireError(f"path {path[:60]!r} holds a control character")
    for name in path.split("/"):
        if name in ("", ".", ".."):
            raise WireError(f"path {path[:60]!r} has a part {name!r}: write it without")
        try:
            size = len(name.encode())
        except UnicodeEncodeError as error:
            raise WireError(f"path {path[:60]!r} is no text that UTF-8 can hold") from error
        if size > NAME_BYTES:
            raise WireError(f"path {path[:60]!r} has a name of {size} bytes: at most {NAME_BYTES}")
    return path


def glob_matches(glob: str, path: str) -> bool:
    """Whether the glob means that path. Both as check_path lets them through."""
    return _reach(glob.split("/"), path.split("/"))[-1]


def glob_may_lie_below(glob: str, folder: str) -> bool:
    """Whether something below that folder could match: what a walk need not look into is told by False."""
    parts = glob.split("/")
    reached = _reach(parts, folder.split("/") if folder else [])
    return any(reached[:-1]) or (reached[-1] and parts[-1] == "**")


def _reach(parts: Sequence[str], names: Sequence[str]) -> list[bool]:
    """[i]: whether the first i parts can mean all of the names."""
    row = [True] + [False] * len(parts)
    for index, part in enumerate(parts):
        row[index + 1] = row[index] and part == "**"
    for name in names:
        after = [False] * (len(parts) + 1)
        for index, part in enumerate(parts):
            if part == "**":
                after[index + 1] = after[index] or row[index + 1] or row[index]
            else:
                after[index + 1] = row[index] and _name_matches(part, name)
        row = after
    return row


def _name_matches(part: str, name: str) -> bool:
    """`*` and `?` within one name, by stepping back to the last star only."""
    at = begin = 0
    star: int | None = None
    index = 0
    while index < len(name):
        if at < len(part) and part[at] == "*":
            star, begin = at, index
            at += 1
        elif at < len(part) and part[at] in ("?", name[index]):
            at += 1
            index += 1
        elif star is not None:
            begin += 1
            at, index = star + 1, begin
        else:
            return False
    return all(rest == "*" for rest in part[at:])
