"""The envelope of segments and roots: checked by its digest before a byte of it is decoded (format 5)."""

from __future__ import annotations

import hmac
import struct

from snapshots.engine.cipher import Cipher
from snapshots.engine.codecs import zstd
from snapshots.engine.errors import DataDamaged, ManifestRefused
from snapshots.engine.fields import refuse
from snapshots.engine.keys import OwnerKey
from snapshots.engine.limits import ROOT_RAW_MAX, ROOT_STORED_MAX, SEGMENT_RAW_MAX, SEGMENT_STORED_MAX

VERSION = 1
ENCRYPTED = 1
"""The one flag of a frame."""
SEGMENT_MAGIC, ROOT_MAGIC = b"DMSG", b"DMSN"
KIND_ROOT, KIND_ENTRIES, KIND_PACKS = 0, 1, 2
SEAL_BYTES = 32
_HEADER = struct.Struct("<4sBBHI")


def encode_segment(kind: int, raw: bytes, cipher: Cipher | None = None) -> bytes:
    return _encode(SEGMENT_MAGIC, kind, raw, cipher)


def decode_segment(
    stored: bytes, *, kind: int, segment_id: bytes, raw_length: int, owner_key: OwnerKey
) -> bytes:
    """The raw bytes, or ManifestRefused. The id is checked first: what did not come from this owner is not decoded."""
    if len(stored) > SEGMENT_STORED_MAX or not hmac.compare_digest(owner_key.segment_id(stored), segment_id):
        raise ManifestRefused(f"segment {segment_id.hex()[:16]} does not have the bytes that its id promises")
    raw = _decode(stored, owner_key, magic=SEGMENT_MAGIC, kind=kind, raw_max=SEGMENT_RAW_MAX)
    if len(raw) != raw_length:
        refuse(f"segment {segment_id.hex()[:16]} has {len(raw)} raw bytes, the root says {raw_length}")
    return raw


def encode_root(raw: bytes, owner_key: OwnerKey, *, encrypted: bool = False) -> bytes:
    sealed = _encode(ROOT_MAGIC, KIND_ROOT, raw, owner_key.cipher if encrypted else None)
    return sealed + owner_key.seal(sealed)


def decode_root(stored: bytes, owner_key: OwnerKey) -> bytes:
    """The raw bytes, or ManifestRefused. The seal is checked before anything is decoded."""
    if len(stored) > ROOT_STORED_MAX:
        refuse(f"a root of {len(stored)} bytes is longer than {ROOT_STORED_MAX}")
    _check_header(
        stored, magic=ROOT_MAGIC, kind=KIND_ROOT
    )  # first: a newer version should be named, not called forged
    sealed, seal = stored[:-SEAL_BYTES], stored[-SEAL_BYTES:]
    if not hmac.compare_digest(owner_key.seal(sealed), seal):
        raise ManifestRefused("the root's seal is broken: it was altered, or made with another owner's key")
    return _decode(sealed, owner_key, magic=ROOT_MAGIC, kind=KIND_ROOT, raw_max=ROOT_RAW_MAX)


def is_encrypted(stored: bytes) -> bool:
    """Of a root or segment that was decoded."""
    return bool(_HEADER.unpack_from(stored)[3] & ENCRYPTED)


def _encode(magic: bytes, kind: int, raw: bytes, cipher: Cipher | None) -> bytes:
    header = _HEADER.pack(magic, VERSION, kind, 0 if cipher is None else ENCRYPTED, len(raw))
    payload = zstd.compress(raw, level=zstd.DENSE)
    return header + (payload if cipher is None else cipher.seal(payload, beside=header))


def _check_header(stored: bytes, *, magic: bytes, kind: int) -> int:
    """The raw length that the header announces."""
    if len(stored) < _HEADER.size:
        refuse("a root or segment is shorter than its header")
    found, version, found_kind, flags, raw_length = _HEADER.unpack_from(stored)
    if found != magic or found_kind != kind:
        refuse("an object is not the root or segment that it should be")
    if version != VERSION or flags & ~ENCRYPTED:
        raise ManifestRefused(
            f"this snapshot has version {version}, flags {flags}: a newer version wrote it; update this program"
        )
    return int(raw_length)


def _decode(stored: bytes, owner_key: OwnerKey, *, magic: bytes, kind: int, raw_max: int) -> bytes:
    raw_length = _check_header(stored, magic=magic, kind=kind)
    if raw_length > raw_max:
        refuse(f"a root or segment announces {raw_length} bytes, more than {raw_max}")
    try:
        payload = memoryview(stored)[_HEADER.size :]
        if is_encrypted(stored):
            payload = memoryview(owner_key.cipher.open(payload, beside=stored[: _HEADER.size]))
        return zstd.decompress(payload, raw_length=raw_length)
    except DataDamaged as error:
        raise ManifestRefused(str(error)) from None
