"""What is wrong with snapshots at this moment: generations that the store no longer holds whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from core.alerts.causes import Finding, Severity, register_source
from core.reasons import because, words
from snapshots.models import Snapshot
from snapshots.states import SnapshotState


def generations_damaged(now: datetime) -> Iterator[Finding]:
    """Generations that were verified once and are not whole any more, until they are whole again or let go."""
    for row in Snapshot.objects.filter(state=SnapshotState.DAMAGED):
        why = words(row.reason_code, row.reason_params)
        reason = because(
            "generation_is_damaged", generation=row.generation, workspace=row.workspace_ref, why=why
        )
        yield Finding(reason, Snapshot.SUBJECT, row.pk, row.owner_id)


def register() -> None:
    """Make the alerts tick ask this. Called once, by the app's ready()."""
    register_source(
        "snapshots", causes={"generation_is_damaged": Severity.CRITICAL}, look=generations_damaged
    )
