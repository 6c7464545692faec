"""Letting a generation go. Its bytes go with retention's sweep; here only the promise to keep it ends."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from core.errors import DomainError
from core.reasons import because
from core.transitions import advance
from snapshots.models import Snapshot
from snapshots.states import SnapshotState

_in_use: list[Callable[[Snapshot], str | None]] = []


def register_use(in_use: Callable[[Snapshot], str | None]) -> None:
    """`in_use(snapshot)` says in words who still needs it, or None. Asked before any generation is let go."""
    if in_use not in _in_use:
        _in_use.append(in_use)


def snapshot_delete(snapshot: Snapshot, *, by: str, now: datetime | None = None) -> None:
    """Refused while it is pinned, while an instance sleeps on it, and while it is still being taken."""
    if snapshot.pinned:
        raise DomainError(f"snapshot {snapshot.pk} is pinned", hint="unpin it first", code="snapshot_pinned")
    for in_use in _in_use:
        need = in_use(snapshot)
        if need:
            raise DomainError(
                f"snapshot {snapshot.pk} is still needed: {need}",
                hint="wake the instance, or delete it, and try again",
                code="snapshot_in_use",
            )
    advance(snapshot, SnapshotState.DELETED, reason=because("snapshot_let_go", by=by), by=by, now=now)
