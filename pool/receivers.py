"""What the pool does when snapshots tell of something. Connected once, by the app's ready()."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pool.models import Job
from pool.services.checkpoints import checkpoint_check
from snapshots import signals
from snapshots.models import Snapshot


def on_committed(sender: Any, snapshot: Snapshot, now: datetime, **_: Any) -> None:
    if Job.objects.filter(pk=snapshot.workspace_ref).exists():
        checkpoint_check(snapshot, now=now)


def connect() -> None:
    signals.snapshot_committed.connect(on_committed, dispatch_uid="pool.on_committed")
