"""Objects in the store that are not snapshots: signed, read, written and removed for other apps, under keys of theirs.

Keys begin with `j/`, then the owner's name in the store; snapshots' begin with `o/` (docs/design/snapshot-format.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from agent import wire
from core.errors import Busy, DomainError, NotFound
from snapshots.engine.store.base import ObjectExists, ObjectMissing, StoreBusy, StoreError
from snapshots.services.owners import owner_key
from snapshots.services.store import store

URL_LIFE_S = 15 * 60
"""How long a signed request is good; until then an object may appear under a key that was signed for."""


class StoreFailed(DomainError):
    """The store refuses what should have worked: its settings or its keys are wrong."""

    status = 502
    code = "store_failed"


def objects_prefix(owner: Any, name: str) -> str:
    """Where the objects of `name` (an id) of that owner are: every key of theirs begins with it."""
    return f"j/{owner_key(owner).storage_id}/{name}/"


def objects_sign(
    *, put: Sequence[wire.PutWish] = (), get: Sequence[str] = ()
) -> tuple[list[wire.Presigned], list[wire.Presigned]]:
    """Presigned requests, bound to key, length, SHA-256 and "not there yet". Whoever asks has checked every key."""
    with _typed():
        puts = [
            store().put_request(wish.key, length=wish.length, sha256=wish.sha256, ttl_s=URL_LIFE_S)
            for wish in put
        ]
        gets = [store().get_request(key, ttl_s=URL_LIFE_S) for key in get]
    return [_presigned(request) for request in puts], [_presigned(request) for request in gets]


def object_url(key: str, *, life_s: float = URL_LIFE_S) -> str:
    """An address from which anybody who knows it may read the object until then."""
    with _typed():
        return store().get_request(key, ttl_s=life_s).url


def object_read(key: str, *, offset: int = 0, length: int | None = None) -> bytes:
    """Raises NotFound, Busy, StoreFailed."""
    with _typed():
        return store().read(key, offset=offset, length=length)


def object_write(key: str, data: bytes) -> None:
    """Durable on return. An object that is there already under this key stays as it is, and that is fine: keys name content."""
    with _typed():
        try:
            store().write(key, data)
        except ObjectExists:
            return


def object_delete(key: str) -> None:
    """Gone on return, also where it was not there."""
    with _typed():
        store().delete(key)


@contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except ObjectMissing as error:
        raise NotFound(f"the store has lost it: {error}", hint="tell an operator") from error
    except StoreBusy as error:
        raise Busy(f"the store is busy: {error}", retry_after_s=error.retry_after_s or 5) from error
    except StoreError as error:
        raise StoreFailed(
            f"the store refused: {error}", hint="tell an operator: check SNAPSHOT_STORE"
        ) from error


def _presigned(request: Any) -> wire.Presigned:
    return wire.Presigned(method=request.method, url=request.url, headers=dict(request.headers))
