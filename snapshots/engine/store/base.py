"""The port to an object store: immutable objects under flat keys, and requests that somebody else may make once.

tests/contracts/test_store.py is the law for every implementation.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from snapshots.engine.errors import EngineError

KEY_CHARS_MAX = 900
"""S3 allows 1,024 bytes; the rest is left for a bucket prefix."""
_KEY_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,199}")


class StoreError(EngineError):
    """The store did not do what was asked."""


class ObjectMissing(StoreError):
    """There is no object under this key."""


class ObjectExists(StoreError):
    """There is already an object under this key. It was not touched."""


class StoreBusy(StoreError):
    """Try again after `retry_after_s` (None: the caller's own back-off). Nothing was stored."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreRefused(StoreError):
    """The same request will be refused again: a wrong key, signature, length or digest, or missing rights."""


class ObjectTooLong(StoreRefused):
    """The object is longer than whoever asked was ready to take. It was not read to its end."""


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What a store knows about an object. sha256: hex digest of the whole object, None where the store keeps none."""

    length: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One row of a listing. modified_at: seconds since 1970, by the store's clock."""

    key: str
    length: int
    modified_at: float


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """An HTTP request that is allowed exactly as it stands, headers included. Its URL is a secret: never log it."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


def check_key(key: str) -> str:
    """The key itself, or StoreRefused. Relative, no empty part, no `.` or `..`, nothing but letters, digits and `._=-`."""
    if len(key) > KEY_CHARS_MAX:
        raise StoreRefused(f"an object key of {len(key)} characters is longer than {KEY_CHARS_MAX}")
    for part in key.split("/"):
        if not _KEY_PART.fullmatch(part):
            raise StoreRefused(
                f"object key {key[:100]!r}: {part[:100]!r} is not a name of letters, digits and ._=- that begins with a letter or digit"
            )
    return key


class Store(ABC):
    """Immutable objects. Safe to use from many threads. Every method raises StoreError's children only."""

    @abstractmethod
    def put_request(self, key: str, *, length: int, sha256: str, ttl_s: float) -> SignedRequest:
        """A PUT of exactly this object, refused (412) if the key is taken. sha256: 64 hex digits."""

    @abstractmethod
    def get_request(self, key: str, *, ttl_s: float) -> SignedRequest:
        """A GET of this object, to which the caller may add a Range header. Does not say whether the object exists."""

    @abstractmethod
    def head(self, key: str) -> ObjectFacts:
        """Length and digest. Raises ObjectMissing."""

    @abstractmethod
    def read(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` (None: to the end); fewer only where the object ends. Raises ObjectMissing."""

    @abstractmethod
    def write(self, key: str, data: bytes, *, sha256: str | None = None) -> None:
        """Store a new object, durable on return. Raises ObjectExists and leaves the old one as it is.

        sha256: what the caller knows to be the data's digest, in hex; it is not computed a second time.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object. Already gone is success."""

    @abstractmethod
    def list(self, prefix: str) -> Sequence[ListedObject]:
        """Every object whose key begins with `prefix` (any text, "" for all), by key. Complete, or an error."""
