"""What is left out of a snapshot: the user's rules in .dormouseignore at the top of the workspace, after those for caches.

Rules are git's: one a line, `#` begins a comment, `!` takes back, a trailing `/` means folders only, a `/` elsewhere ties the rule to the
top, `*` and `?` stop at `/`, `**` does not. The last rule that matches decides. What lies in a folder that is left out is not looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from snapshots.engine.beneath import Beneath
from snapshots.engine.errors import SnapshotRefused

FILE_NAME = b".dormouseignore"
FILE_BYTES_MAX = 256 * 1024
CACHES = (
    b"__pycache__/",
    b".cache/pip/",
    b".cache/uv/",
    b".cache/conda/",
    b".conda/pkgs/",
    b".cache/yarn/",
    b".npm/_cacache/",
    b".cache/torch_extensions/",
    b".cache/torch/inductor/",
    b".triton/cache/",
    b".nv/ComputeCache/",
)
"""Made again by themselves where they are missed. Downloaded models are no cache in this sense: they may be gone by tomorrow."""


class LeftOut(NamedTuple):
    """A name that is not in the snapshot, nor anything below it, and the rule that says so."""

    path: bytes
    rule: bytes


class _Rule(NamedTuple):
    text: bytes
    pattern: re.Pattern[bytes]
    folders_only: bool
    takes_back: bool


class Ignore:
    """Asked for every name that a scan finds."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._rules = [rule for line in lines if (rule := _parse(line)) is not None]
        every = b"|".join(b"(?:%s)" % rule.pattern.pattern for rule in self._rules)
        self._any = re.compile(every) if every else None

    def rule_for(self, path: bytes, *, is_folder: bool) -> bytes | None:
        """The rule by which this name is left out, None if it stays."""
        if self._any is None or self._any.fullmatch(path) is None:
            return None
        for rule in reversed(self._rules):
            if (is_folder or not rule.folders_only) and rule.pattern.fullmatch(path):
                return None if rule.takes_back else rule.text
        return None


def rules_of(root: Beneath, defaults: Iterable[bytes]) -> Ignore:
    """The defaults and what the workspace's own file adds. Raises SnapshotRefused where that file is not one."""
    try:
        fd = root.open(FILE_NAME, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return Ignore(defaults)
    except OSError as error:
        raise SnapshotRefused(
            FILE_NAME, f"cannot be read ({error.strerror}): make it a plain file"
        ) from error
    try:
        text = os.read(fd, FILE_BYTES_MAX + 1)
    except OSError as error:
        raise SnapshotRefused(
            FILE_NAME, f"cannot be read ({error.strerror}): make it a plain file"
        ) from error
    finally:
        os.close(fd)
    if len(text) > FILE_BYTES_MAX:
        raise SnapshotRefused(FILE_NAME, f"is longer than {FILE_BYTES_MAX} bytes: shorten it")
    return Ignore([*defaults, *text.splitlines()])


def _parse(line: bytes) -> _Rule | None:
    text = line.rstrip()
    if not text or text.startswith(b"#"):
        return None
    body = text
    takes_back = body.startswith(b"!")
    body = body.removeprefix(b"!")
    folders_only = body.endswith(b"/")
    body = body.rstrip(b"/")
    tied = b"/" in body
    body = body.removeprefix(b"/")
    if not body:
        return None
    pattern = (b"" if tied else b"(?:.*/)?") + _translate(body)
    return _Rule(text, re.compile(pattern, re.DOTALL), folders_only, takes_back)


_PIECES = re.compile(rb"\*\*/|/\*\*$|\*\*|\*|\?|\[!?\]?[^\]/]*\]|\\.|[^*?\[\\]+|.", re.DOTALL)


def _translate(body: bytes) -> bytes:
    found = []
    for piece in _PIECES.findall(body):
        if piece == b"**/":
            found.append(b"(?:.*/)?")
        elif piece == b"/**":
            found.append(b"/.*")
        elif piece == b"**":
            found.append(b".*")
        elif piece == b"*":
            found.append(b"[^/]*")
        elif piece == b"?":
            found.append(b"[^/]")
        elif piece.startswith(b"[") and len(piece) > 2:
            inner = piece[1:-1].replace(b"\\", b"\\\\")
            found.append(
                b"[" + (b"^/" + inner[1:] if inner.startswith(b"!") else inner.replace(b"[", b"\\[")) + b"]"
            )
        else:
            found.append(re.escape(piece[1:] if piece.startswith(b"\\") and len(piece) > 1 else piece))
    return b"".join(found)
