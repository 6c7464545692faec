"""What happens to a sleeping instance by itself: after its pause window its generation is checked once more."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from core.reasons import because
from core.transitions import advance, event_add
from hibernation.models import Box, Instance
from hibernation.states import BOX, INSTANCE, InstanceState
from snapshots.services.verifying import snapshot_recheck

log = logging.getLogger(__name__)

LOOK_AGAIN = timedelta(hours=1)


def instances_to_delete(*, now: datetime, limit: int = 50) -> list[Instance]:
    """Hibernated ones whose delete window has passed, the longest waiting first."""
    due = Instance.objects.filter(state=InstanceState.HIBERNATED, delete_due_at__lte=now)
    return list(due.select_related("snapshot__owner", "account", "worker").order_by("delete_due_at")[:limit])


def instance_pause_end(instance: Instance, *, now: datetime) -> bool:
    """hibernated -> deleted once the store was asked again; the snapshot stays and can be woken.

    A generation that is no longer whole is never given up silently: the instance stays hibernated, an event says what
    is wrong, and the store is asked again in an hour. Busy where the store cannot be asked.
    """
    snapshot = instance.snapshot
    assert snapshot is not None, "the database keeps no hibernated instance without a snapshot"
    if snapshot_recheck(snapshot, now=now):
        advance(
            instance,
            InstanceState.DELETED,
            reason=because(
                "paused_long_enough",
                minutes=round((now - (instance.hibernated_at or now)).total_seconds() / 60, 1),
                generation=snapshot.generation,
            ),
            now=now,
            delete_due_at=None,
        )
        return True
    Instance.objects.filter(pk=instance.pk, delete_due_at=instance.delete_due_at).update(
        delete_due_at=now + LOOK_AGAIN
    )
    reason = because("generation_missing", generation=snapshot.generation)
    event_add(instance, "snapshot_damaged", reason=reason, now=now)
    log.error("instance=%s %s", instance.pk, reason)
    return False


def overdue_mark(*, now: datetime, limit: int = 50) -> int:
    """Rows that are in a limited state for too long: the way out where the table has one, else a person is told.

    Told once an hour and row: the deadline moves on, the state does not.
    """
    marked = 0
    for model, table in ((Instance, INSTANCE), (Box, BOX)):
        for row in model.objects.filter(state_deadline__lte=now).order_by("state_deadline")[:limit]:
            allowed = table.limits[row.state]
            reason = because("overdue", state=row.state, minutes=allowed.minutes)
            marked += 1
            if allowed.then is not None:
                advance(row, allowed.then, reason=reason, now=now)
                continue
            model.objects.filter(pk=row.pk, state=row.state).update(state_deadline=now + LOOK_AGAIN)
            event_add(row, "overdue", reason=reason, now=now)
            log.error("%s=%s %s", row.SUBJECT, row.pk, reason)
    return marked
