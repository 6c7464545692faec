"""Where objects lie, and what an owner's secret is used for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from blake3 import blake3

from snapshots.engine.cipher import Cipher
from snapshots.engine.errors import EngineError

ID_BYTES = 32
PACK_ID_BYTES = 16
OWNER_KEY_BYTES = 32
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
_KEY = re.compile(rf"o/({_NAME})/(?:(m)/({_NAME})|(p)/([0-9a-f]{{32}})|(s)/([0-9a-f]{{64}}))")


class KeyRefused(EngineError, ValueError):
    """An id or an object key that does not follow the layout of docs/design/snapshot-format.md 2."""


class ObjectKind(StrEnum):
    ROOT = "m"
    PACK = "p"
    SEGMENT = "s"


@dataclass(frozen=True, slots=True)
class ObjectName:
    """An object key taken apart. name: snapshot id, or hex id of a pack or segment."""

    owner_id: str
    kind: ObjectKind
    name: str


def parse_key(key: str) -> ObjectName:
    """Raises KeyRefused. Whoever signs requests asks this first: is it the right owner, and an object of ours at all?"""
    match = _KEY.fullmatch(key)
    if match is None:
        raise KeyRefused(f"{key[:200]!r} is not the key of a snapshot's object (o/<owner>/m|p|s/<name>)")
    groups = [group for group in match.groups() if group is not None]
    return ObjectName(owner_id=groups[0], kind=ObjectKind(groups[1]), name=groups[2])


def root_key(owner_id: str, snapshot_id: str) -> str:
    return f"o/{check_name(owner_id)}/m/{check_name(snapshot_id)}"


def pack_key(owner_id: str, pack_id: bytes) -> str:
    return f"o/{owner_id}/p/{pack_id.hex()}"


def segment_key(owner_id: str, segment_id: bytes) -> str:
    return f"o/{owner_id}/s/{segment_id.hex()}"


def check_name(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise KeyRefused(f"{name[:100]!r} is not an owner or snapshot id: 1 to 64 letters, digits, _ and -")
    return name


@dataclass(frozen=True, slots=True)
class OwnerKey:
    """An owner's secret, split by purpose so that a digest made for one can never pass for another (format 3)."""

    secret: bytes = field(repr=False)
    _chunk: bytes = field(init=False, repr=False)
    _segment: bytes = field(init=False, repr=False)
    _plain: bytes = field(init=False, repr=False)
    _root: bytes = field(init=False, repr=False)
    _content: bytes = field(init=False, repr=False)
    _index: bytes = field(init=False, repr=False)
    _encrypt: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != OWNER_KEY_BYTES:
            raise KeyRefused(f"an owner key is {OWNER_KEY_BYTES} bytes, not {len(self.secret)}")
        for purpose in ("chunk", "segment", "plain", "root", "content", "index", "encrypt"):
            derived = blake3(b"dormouse snapshot 1 " + purpose.encode(), key=self.secret).digest()
            object.__setattr__(self, f"_{purpose}", derived)

    def chunk_id(self, data: bytes | bytearray | memoryview) -> bytes:
        return blake3(data, key=self._chunk).digest()

    def segment_id(self, stored: bytes) -> bytes:
        return blake3(stored, key=self._segment).digest()

    def plain_id(self, raw: bytes) -> bytes:
        return blake3(raw, key=self._plain).digest()

    def seal(self, root: bytes) -> bytes:
        return blake3(root, key=self._root).digest()

    def index_seal(self, body: bytes) -> bytes:
        return blake3(body, key=self._index).digest()

    @property
    def cipher(self) -> Cipher:
        return Cipher(self._encrypt)

    def content_hasher(self) -> blake3:
        return blake3(key=self._content)
