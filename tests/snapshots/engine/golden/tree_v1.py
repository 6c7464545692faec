"""The two trees that the golden snapshots of format version 1 hold. Never change this file: old snapshots do not change either.

How they were made, once, as root, in an empty folder:

    build_first(w); take(w, …, owner_key=KEY, owner_id="u_golden", snapshot_id="s_first")
    build_second(w); take(w, …, snapshot_id="s_second", parent=<s_first>)
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

KEY = bytes(range(32))
T0_NS = 1_763_000_000_000_000_000
LEFT_OUT = frozenset({b"device", b"socket"})


def build_first(root: Path, *, with_specials: bool = True) -> None:
    base = os.fsencode(root)
    for folder in (b"src/deep/er", b"empty", b"data", b"sticky", b"\xff\xfe"):
        os.makedirs(base + b"/" + folder)
    for number in range(40):
        _put(base, b"src/%02d.py" % number, b"def f%d():\n    return %d\n" % (number, number) * (number + 1))
    _put(base, b"src/deep/er/text", "olá, 世界\n".encode() * 50)
    _put(base, b"src/nothing", b"")
    _put(base, b"data/large", b"".join(b"%07d\n" % n for n in range(330_000)))
    _put(base, b"data/copy", b"".join(b"%07d\n" % n for n in range(330_000)))
    _put(base, b"data/bytes", bytes(range(256)) * 3)
    _put(base, b"\xff\xfe/caf\xe9\n", b"not utf-8\n")
    _put(base, b"sticky/setuid", b"#!/bin/sh\n", 0o4755)
    _put(base, b"private", b"secret\n", 0o600)
    os.link(base + b"/private", base + b"/src/private-too")
    os.symlink(b"src/00.py", base + b"/link")
    os.symlink(b"/nowhere/\xff", base + b"/dangling")
    os.mkfifo(base + b"/fifo")
    os.chmod(base + b"/fifo", 0o640)
    with open(base + b"/sparse", "wb") as file:
        file.seek(3 << 20)
        file.write(b"in the middle")
        file.truncate(8 << 20)
    os.setxattr(base + b"/private", b"user.note", b"\x00kept")
    os.setxattr(base + b"/empty", b"user.folder", b"too")
    os.chmod(base + b"/sticky", 0o1777)
    if with_specials:
        os.mknod(base + b"/device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(base + b"/socket")
        listener.close()
    _settle(root)


def build_second(root: Path) -> None:
    """The first tree, some hours later."""
    base = os.fsencode(root)
    with open(base + b"/data/large", "r+b") as file:
        file.seek(1_500_000)
        file.write(b"changed")
    _put(base, b"data/new", b"only in the second\n")
    os.unlink(base + b"/src/07.py")
    _settle(root)


def _put(base: bytes, name: bytes, data: bytes, mode: int = 0o644) -> None:
    with open(base + b"/" + name, "wb") as file:
        file.write(data)
    os.chmod(base + b"/" + name, mode)


def _settle(root: Path) -> None:
    base = os.fsencode(root)
    for folder, folders, files in os.walk(base, topdown=False):
        for name in folders + files:
            at = T0_NS + sum(name) * 1_000_003
            os.utime(os.path.join(folder, name), ns=(at, at), follow_symlinks=False)
    os.utime(base, ns=(T0_NS, T0_NS))
    os.chmod(base, 0o755)
