"""The port through which take and restore move bytes. They hold no bucket key: only this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from snapshots.engine.store.base import ObjectTooLong


@dataclass(frozen=True, slots=True)
class ObjectPlan:
    """An object that is about to exist: exactly these bytes under this key. sha256: 64 hex digits."""

    key: str
    length: int
    sha256: str


class Remote(ABC):
    """Moves whole objects up and ranges down, with its own retries. Safe to use from many threads."""

    @abstractmethod
    def put(self, plan: ObjectPlan, data: bytes) -> None:
        """Return when the store holds exactly the planned object, also if it held it before.

        Raises ObjectExists (another object has the key), StoreBusy (retries used up), StoreRefused.
        """

    @abstractmethod
    def get(self, key: str, *, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`; fewer only where the object ends. Raises ObjectMissing, StoreBusy, StoreRefused."""

    def fetch(self, key: str, *, max_length: int) -> bytes:
        """A whole object. Raises ObjectTooLong, having read max_length + 1 bytes, if it is longer than that."""
        data = self.get(key, offset=0, length=max_length + 1)
        if len(data) > max_length:
            raise ObjectTooLong(f"{key} is longer than the {max_length} bytes that are allowed here")
        return data
