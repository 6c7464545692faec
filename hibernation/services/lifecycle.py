"""What happens to sleeping rows by themselves: after its pause window a generation is checked once more, and whatever
is in a limited state for too long is brought out of it, or told to a person."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from functools import partial
from itertools import chain as chained

from core.errors import TransitionRefused
from core.models import Stateful
from core.reasons import because
from core.ticks import step_each
from core.transitions import advance, event_add
from hibernation.models import Box, Instance
from hibernation.services.wake import generation_of
from hibernation.states import InstanceState
from snapshots.models import Snapshot
from snapshots.services.taking import snapshot_fail
from snapshots.services.verifying import snapshot_recheck
from snapshots.states import SnapshotState

log = logging.getLogger(__name__)

LOOK_AGAIN = timedelta(hours=1)
CHECKING = timedelta(minutes=5)
"""Whoever checks a generation has it to itself for this long; after that another tick tries."""


def instances_to_delete(*, now: datetime, limit: int = 20) -> list[Instance]:
    """Hibernated ones whose delete window has passed, the longest waiting first."""
    due = Instance.objects.filter(state=InstanceState.HIBERNATED, delete_due_at__lte=now)
    return list(due.select_related("snapshot__owner", "account", "worker").order_by("delete_due_at")[:limit])


def instance_pause_end(instance: Instance, *, now: datetime) -> bool:
    """hibernated -> deleted once the store was asked again; the snapshot stays and can be woken.

    A generation that is no longer whole is never given up silently: the instance stays hibernated, an event says what
    is wrong, and the store is asked again in an hour. Busy where the store cannot be asked. False where it was not
    deleted, or another worker is at it.
    """
    mine = Instance.objects.filter(
        pk=instance.pk, state=InstanceState.HIBERNATED, delete_due_at=instance.delete_due_at
    )
    if mine.update(delete_due_at=now + CHECKING) != 1:
        return False
    snapshot = generation_of(instance)
    assert snapshot is not None, "nobody lets the last generation of a hibernated instance go"
    if not snapshot_recheck(snapshot, now=now):
        Instance.objects.filter(pk=instance.pk, delete_due_at=now + CHECKING).update(
            delete_due_at=now + LOOK_AGAIN
        )
        reason = because("generation_missing", generation=snapshot.generation)
        event_add(instance, "snapshot_damaged", reason=reason, now=now)
        log.error("instance=%s %s", instance.pk, reason)
        return False
    minutes = round((now - (instance.hibernated_at or now)).total_seconds() / 60, 1)
    reason = because("paused_long_enough", minutes=minutes, generation=snapshot.generation)
    try:
        advance(
            instance,
            InstanceState.DELETED,
            reason=reason,
            now=now,
            delete_due_at=None,
            snapshot_id=snapshot.pk,
        )
    except TransitionRefused as refused:
        log.info("instance=%s was not deleted: %s", instance.pk, refused)
        return False
    return True


def overdue_mark(*, now: datetime, limit: int = 50) -> int:
    """Rows that are in a limited state for too long: the way out where the table has one, else a person is told.

    Told once an hour and row: the deadline moves on, the state does not. Returns how many rows it was done for.
    """
    overdue = (
        rows.filter(state_deadline__lte=now).order_by("state_deadline")[:limit]
        for rows in (
            Instance.objects.all(),
            Box.objects.select_related("instance"),
            Snapshot.objects.filter(state__in=(SnapshotState.TAKING, SnapshotState.COMMITTED)),
        )
    )
    return step_each(partial(_overdue, now=now), chained.from_iterable(overdue))


def _overdue(row: Instance | Box | Snapshot, *, now: datetime) -> None:
    allowed = row.TABLE.limits[row.state]
    reason = because("overdue", state=row.state, minutes=allowed.minutes)
    try:
        if isinstance(row, Snapshot):
            snapshot_fail(row, error=str(reason), now=now)
        elif isinstance(row, Instance) and allowed.then is not None:
            advance(row, allowed.then, reason=reason, now=now, idle_since=None, idle_due_at=None)
        else:
            _tell(row, now=now)
    except TransitionRefused as refused:
        log.info("%s=%s has moved on: %s", row.SUBJECT, row.pk, refused)


def _tell(row: Stateful, *, now: datetime) -> None:
    reason = because("overdue", state=row.state, minutes=row.TABLE.limits[row.state].minutes)
    same = type(row)._default_manager.filter(pk=row.pk, state=row.state, state_deadline=row.state_deadline)
    if same.update(state_deadline=now + LOOK_AGAIN):
        event_add(row, "overdue", reason=reason, now=now)
        log.error("%s=%s %s", row.SUBJECT, row.pk, reason)
