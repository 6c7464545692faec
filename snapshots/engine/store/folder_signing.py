"""Signed requests for a folder store: what S3's presigned URLs are for a bucket."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from snapshots.engine.store.base import SignedRequest, StoreRefused, check_key


class SignatureRefused(StoreRefused):
    """Not signed by us, signed for something else, or expired."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A request that was, or will be, signed. length and sha256 are of the object to be stored, None for a GET."""

    method: str
    key: str
    length: int | None = None
    sha256: str | None = None


class Signer:
    """HMAC-SHA256 over method, key, expiry, length and SHA-256 of the body."""

    def __init__(self, base_url: str, signing_key: bytes) -> None:
        self._base_url = base_url.rstrip("/")
        self._key = signing_key

    def sign(self, grant: Grant, *, expires_at: float) -> SignedRequest:
        if not (self._base_url and self._key):
            raise StoreRefused(
                "this folder store was opened without base_url and signing_key: it cannot sign requests"
            )
        expires = str(int(expires_at))
        length = "" if grant.length is None else str(grant.length)
        query, headers = {"expires": expires}, {}
        if grant.method == "PUT":
            query |= {"length": length, "sha256": grant.sha256 or ""}
            headers = {"Content-Length": length, "If-None-Match": "*"}
        query["signature"] = self._signature(grant.method, grant.key, expires, length, grant.sha256 or "")
        return SignedRequest(grant.method, f"{self._base_url}/{quote(grant.key)}?{urlencode(query)}", headers)

    def check(
        self, method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str], *, now: float
    ) -> Grant:
        """What this request may do, or SignatureRefused. For a PUT, Content-Length must be the signed length."""
        check_key(key)
        expires, length, sha256 = (query.get(name, "") for name in ("expires", "length", "sha256"))
        signature = self._signature(method, key, expires, length, sha256)
        if not self._key or not hmac.compare_digest(signature.encode(), query.get("signature", "").encode()):
            raise SignatureRefused(f"the request for {key} is not signed for {method}: ask for a new one")
        if now >= int(expires):
            raise SignatureRefused(f"the request for {key} has expired: ask for a new one")
        grant = Grant(method, key, int(length) if length else None, sha256 or None)
        if method == "PUT":
            given = {name.lower(): value for name, value in headers.items()}.get("content-length", "")
            if given != length:
                raise SignatureRefused(
                    f"the request for {key} is signed for {length} bytes, not {given or 'unknown'}"
                )
        return grant

    def _signature(self, *parts: str) -> str:
        signed = "\n".join(("dormouse folder store 1", *parts))
        return hmac.new(self._key, signed.encode(), hashlib.sha256).hexdigest()
