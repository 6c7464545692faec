"""Letting a generation go. Its bytes go with retention's sweep; here only the promise to keep it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from django.db import transaction

from core.errors import DomainError
from core.reasons import because
from core.transitions import advance
from snapshots.models import Snapshot
from snapshots.states import SnapshotState

log = logging.getLogger(__name__)

_in_use: list[Callable[[Snapshot], str | None]] = []


def register_use(in_use: Callable[[Snapshot], str | None]) -> None:
    """`in_use(snapshot)` says in words who still needs it, or None. Asked before any generation is let go."""
    if in_use not in _in_use:
        _in_use.append(in_use)


def snapshot_delete(snapshot: Snapshot, *, by: str, now: datetime | None = None) -> None:
    """Refused while it is pinned, while somebody needs it (an instance sleeps on it), and while it is still being taken.

    Its row is locked while its users are asked: whoever begins to use it (a box that is let go, a wake) locks it too, so
    that one of the two sees the other.
    """
    with transaction.atomic():
        row = Snapshot.objects.select_for_update().select_related("owner").get(pk=snapshot.pk)
        if row.pinned:
            raise DomainError(f"snapshot {row.pk} is pinned", hint="unpin it first", code="snapshot_pinned")
        if not row.TABLE.allows(row.state, SnapshotState.DELETED):
            raise DomainError(
                f"snapshot {row.pk} is {row.state}: there is nothing to let go",
                hint="only a verified or damaged one can be",
                code="snapshot_not_kept",
            )
        for in_use in _in_use:
            need = in_use(row)
            if need:
                raise DomainError(
                    f"snapshot {row.pk} is still needed: {need}",
                    hint="try again once it is not",
                    code="snapshot_in_use",
                )
        advance(row, SnapshotState.DELETED, reason=because("snapshot_let_go", by=by), by=by, now=now)
    snapshot.refresh_from_db()


def snapshots_trim(workspace_ref: str, *, keep: int, by: str, now: datetime | None = None) -> int:
    """Let all but the newest `keep` verified generations of a workspace go; how many went.

    Damaged ones go with those beside them. What is pinned or needed stays, and is looked at again the next time.
    """
    rows = Snapshot.objects.filter(workspace_ref=workspace_ref).order_by("-generation")
    verified = rows.filter(state=SnapshotState.VERIFIED).values_list("generation", flat=True)
    kept = list(verified[:keep])
    if len(kept) < keep:
        return 0
    gone = 0
    old = rows.filter(state__in=(SnapshotState.VERIFIED, SnapshotState.DAMAGED), pinned=False)
    for row in old.filter(generation__lt=kept[-1]) if kept else old:
        try:
            snapshot_delete(row, by=by, now=now)
            gone += 1
        except DomainError as refused:
            log.info("snapshot=%s stays: %s", row.pk, refused)
    return gone
