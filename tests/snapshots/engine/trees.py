"""Trees to take snapshots of, and the few lines that every test of the engine begins with."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from snapshots.engine.limits import Effort
from snapshots.engine.manifest import Manifest, load_manifest
from snapshots.engine.remote import Remote, StoreRemote
from snapshots.engine.restore import Restored, restore
from snapshots.engine.store.base import Store
from snapshots.engine.take import Taken, take
from snapshots.engine.verify import Verified, verify

KEY = b"alice's own key, thirty-two long"
OTHER_KEY = b"and bob's, which is not the same"
FAST = Effort(streams=4, workers=2, retry_pause_s=0.005)
T0_NS = 1_700_000_000_123_456_789


def take_of(source: Path, store: Store | Remote, snapshot_id: str = "s_1", **options: Any) -> Taken:
    options = {"owner_key": KEY, "owner_id": "u_alice", "effort": FAST, **options}
    return take(source, remote=_remote(store), snapshot_id=snapshot_id, **options)


def restore_of(
    target: Path, store: Store | Remote, root_key: str = "o/u_alice/m/s_1", **options: Any
) -> Restored:
    return restore(
        target, remote=_remote(store), root_key=root_key, **{"owner_key": KEY, "effort": FAST, **options}
    )


def verify_of(store: Store, taken: Taken, **options: Any) -> Verified:
    known = {
        "owner_key": KEY,
        "owner_id": "u_alice",
        "expected_root_sha256": taken.root_sha256,
        "sample": 1.0,
    }
    return verify(store, root_key=taken.root_key, **{**known, **options})


def manifest_of(store: Store | Remote, root_key: str = "o/u_alice/m/s_1", key: bytes = KEY) -> Manifest:
    return load_manifest(_remote(store), root_key=root_key, owner_key=key)


def _remote(store: Store | Remote) -> Remote:
    return store if isinstance(store, Remote) else StoreRemote(store, attempts=1)


def put(path: Path | bytes, data: bytes = b"", *, mode: int = 0o644, mtime_ns: int | None = None) -> None:
    name = os.fsencode(path)
    os.makedirs(os.path.dirname(name), exist_ok=True)
    with open(name, "wb") as file:
        file.write(data)
    os.chmod(name, mode)
    if mtime_ns is not None:
        os.utime(name, ns=(mtime_ns, mtime_ns))


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def settle(root: Path, *, before_ns: int = T0_NS) -> None:
    """Every time in the tree to a fixed one of its own, children before parents."""
    number = 0
    for folder, folders, files in os.walk(os.fsencode(root), topdown=False):
        for name in sorted(folders + files):
            number += 1
            at = before_ns - number * 1_000_000_007
            os.utime(os.path.join(folder, name), ns=(at, at), follow_symlinks=False)
    os.utime(root, ns=(before_ns, before_ns))


def odd_tree(root: Path) -> Path:
    """One of everything that a file system can hold and a snapshot must keep."""
    base = os.fsencode(root)
    put(root / "empty")
    put(root / "plain.txt", b"hello\n" * 100)
    put(root / "large.bin", noise(3_500_000))
    put(root / "exactly-one-chunk", noise(1 << 20, 2))
    put(root / "one-more", noise((1 << 20) + 1, 3))
    put(root / "copy-of-large.bin", noise(3_500_000))
    put(root / "private", b"k\n", mode=0o600)
    put(root / "locked", b"k\n", mode=0o000)
    put(root / "setuid", b"#!/bin/sh\n", mode=0o4755)
    put(root / "setgid", b"#!/bin/sh\n", mode=0o2711)
    put(root / "sticky/inside", b"x", mode=0o644)
    os.chmod(root / "sticky", 0o1777)
    put(root / "read-only/inside", b"x")
    os.chmod(root / "read-only", 0o500)
    put(base + b"/latin1-\xe9\xff.txt", b"not utf-8\n")
    put(base + b"/new\nline and \x1b[31m", b"x\n")
    put(base + b"/" + b"n" * 255, b"long name\n")
    put(root / "日本語 ✓", b"utf-8\n")
    put(root / "a/b.c", b"1")
    put(root / "a.b/c", b"2")
    put(root / "a-b", b"3")
    put(root / "one/first", b"linked")
    os.link(root / "one/first", root / "one/second")
    os.makedirs(root / "another")
    os.link(root / "one/first", root / "another/third")
    os.makedirs(root / "empty-folder/inner")
    os.symlink("plain.txt", root / "link")
    os.symlink("/nonexistent/target", root / "dangling")
    os.symlink("/etc/passwd", root / "absolute")
    os.symlink("empty-folder", root / "to-a-folder")
    os.symlink(b"caf\xe9", base + b"/link-\xff")
    os.link(root / "link", root / "link-twice", follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o640)
    put(root / ("deep/" * 40) / "end", b"deep\n")
    sparse(root / "holes", 9_000_000, {3_000_000: b"middle"})
    sparse(root / "hole-at-both-ends", 5_000_000, {2_097_152: noise(1_048_576, 5)})
    sparse(root / "only-a-hole", 4_000_000, {})
    sparse(root / "ends-in-data", 2_000_000, {1_900_000: noise(100_000, 6)})
    put(root / "attributes", b"x\n")
    if supports_xattrs(root):
        os.setxattr(root / "attributes", "user.note", b"kept?\x00\xff")
        os.setxattr(root / "attributes", "user.empty", b"")
        os.setxattr(root / "sticky", "user.on-a-folder", b"too")
        os.setxattr(root, "user.on-top", b"as well")
    os.chmod(root, 0o751)
    settle(root)
    return root


def sparse(path: Path, size: int, data: dict[int, bytes]) -> None:
    with path.open("wb") as file:
        for offset, piece in data.items():
            file.seek(offset)
            file.write(piece)
        file.truncate(size)


def supports_xattrs(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.probe", b"")
        os.removexattr(folder, "user.probe")
    except (OSError, AttributeError):
        return False
    return True
