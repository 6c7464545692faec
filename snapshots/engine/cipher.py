"""Encryption at rest: AES-256-GCM, with a key of its own for every block, segment and root.

    sealed = salt [16]   ciphertext   tag [16]          key = BLAKE3-256 of the salt, keyed with the owner's `encrypt` key

A key is used once, so its nonce is zero; salts are random, and 2^64 messages may pass before two are likely to be the same. The owner's
secret is all that opens them, and the control plane keeps that encrypted: who deletes it has shredded every snapshot of the owner.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from blake3 import blake3

from snapshots.engine.errors import DataDamaged

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SALT_BYTES, TAG_BYTES = 16, 16
OVERHEAD_BYTES = SALT_BYTES + TAG_BYTES
_NONCE = bytes(12)


class Cipher:
    """Made from a 32-byte key. Safe for many threads."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, plain: bytes | bytearray | memoryview, *, beside: bytes) -> bytes:
        """beside: what must be the same when it is opened; it is not stored here."""
        salt = secrets.token_bytes(SALT_BYTES)
        return salt + self._once(salt).encrypt(_NONCE, plain, beside)

    def open(self, sealed: bytes | memoryview, *, beside: bytes) -> bytes:
        """Raises DataDamaged for anything that was not sealed with this key beside these bytes."""
        from cryptography.exceptions import InvalidTag

        if len(sealed) < OVERHEAD_BYTES:
            raise DataDamaged("an encrypted payload is shorter than its salt and tag")
        try:
            return self._once(bytes(sealed[:SALT_BYTES])).decrypt(_NONCE, sealed[SALT_BYTES:], beside)
        except InvalidTag:
            raise DataDamaged("an encrypted payload was altered, or belongs to another owner") from None

    def _once(self, salt: bytes) -> AESGCM:
        # Imported by the first who encrypts: most snapshots lie in a bucket that is encrypted by its provider.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(blake3(salt, key=self._key).digest())
