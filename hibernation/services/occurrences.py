"""The next moments of people's schedules: computed from a policy, kept as rows that a tick can ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from hibernation.models import Instance, Schedule
from hibernation.policy import Policy
from hibernation.schedule_times import last_sleep, last_wake, next_sleep, next_wake


def schedules_refresh(instances: Iterable[Instance], policies: Mapping[str, Policy], *, now: datetime) -> int:
    """Make the schedule rows of these instances say what their policies say. Returns how many changed.

    policies: by instance id. A moment that is due already, and still one of the schedule's, stays due: a change of
    something else must not swallow it.
    """
    known = {row.instance_id: row for row in Schedule.objects.filter(instance__in=instances)}
    changed = []
    for instance in instances:
        policy = policies[instance.pk]
        row = known.get(instance.pk)
        if row is None and not policy.scheduled:
            continue
        row = row or Schedule(instance=instance)
        wake, sleep = _moments(row, policy, now)
        if row.pk is None or (row.next_wake_at, row.next_sleep_at) != (wake, sleep):
            row.next_wake_at, row.next_sleep_at, row.updated_at = wake, sleep, now
            changed.append(row)
    Schedule.objects.bulk_create(
        changed,
        update_conflicts=True,
        unique_fields=["instance"],
        update_fields=["next_wake_at", "next_sleep_at", "updated_at"],
    )
    return len(changed)


def _moments(row: Schedule, policy: Policy, now: datetime) -> tuple[datetime | None, datetime | None]:
    if not policy.scheduled:
        return None, None
    times = policy.schedule
    wake, sleep = next_wake(times, now), next_sleep(times, now)
    if row.next_wake_at is not None and row.next_wake_at <= now and last_wake(times, now) == row.next_wake_at:
        wake = row.next_wake_at
    if (
        row.next_sleep_at is not None
        and row.next_sleep_at <= now
        and last_sleep(times, now) == row.next_sleep_at
    ):
        sleep = row.next_sleep_at
    return wake, sleep
