"""Reading a snapshot's manifest: the root, and what hangs on it."""

from __future__ import annotations

from snapshots.engine.limits import DEFAULT_LIMITS, Limits
from snapshots.engine.remote import Remote


class Manifest:
    """A root whose seal was checked. Segments are fetched, checked and decoded as they are asked for."""


def load_manifest(
    remote: Remote, *, root_key: str, owner_key: bytes, limits: Limits = DEFAULT_LIMITS
) -> Manifest:
    """Raises ObjectMissing, ManifestRefused."""
    raise NotImplementedError
