"""Schedules: set by a person, carried out once each, caught up after the control plane was away.

What counts is the latest moment that has passed. After an outage a missed wake is done late, once; a missed sleep that
a later wake has overtaken is not done at all. A sleep never cuts off what is going on: an instance that is held awake,
works, or has only just started is left to the idle verdict, whose window begins at its sleep time.
"""

from __future__ import annotations

import logging
from datetime import datetime, time
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import Q

from core.errors import DomainError
from core.reasons import Reason
from core.ticks import step_each
from core.transitions import event_add
from hibernation.idle import UNKNOWN
from hibernation.models import Instance, Schedule
from hibernation.policy import ROOT, SCHEDULED, Policy, Resolved
from hibernation.reasons import because
from hibernation.schedule_times import EVERY_DAY, last_sleep, last_wake, next_sleep, next_wake
from hibernation.services.hibernate import instance_hibernate
from hibernation.services.policies import config_set, policy_resolved
from hibernation.services.verdicts import verdict_now
from hibernation.services.wake import instance_wake
from hibernation.states import AWAKE, InstanceState

log = logging.getLogger(__name__)

AT_ONCE = 200


def schedule_set(
    instance: Instance,
    *,
    wake_time: str | None,
    sleep_time: str | None,
    timezone: str,
    weekdays: list[int] | None = None,
    by: str,
    now: datetime | None = None,
) -> Resolved:
    """Have the instance wake and sleep at these local times (HH:MM); its wake method becomes `scheduled`.

    Both None: it has no schedule any more, and is woken by hand unless its configuration says otherwise. weekdays:
    0 is Monday; None: every day. Raises PolicyInvalid, and changes nothing, where one of them is wrong.
    """
    body = dict(instance.config.get(ROOT, {}))
    body["schedule"] = {
        "wake_time": wake_time,
        "sleep_time": sleep_time,
        "timezone": timezone,
        "weekdays": list(EVERY_DAY) if weekdays is None else weekdays,
    }
    if wake_time is not None or sleep_time is not None:
        body["wake_method"] = SCHEDULED
    elif policy_resolved(instance).policy.wake_method == SCHEDULED:
        body["wake_method"] = "manual"
    return config_set(instance, {ROOT: body}, by=by, now=now)


def schedules_tick(now: datetime) -> int:
    """Act on every schedule whose moment has come. Returns how many were looked at.

    Two at once are safe: each moment is taken by one guarded UPDATE, in the transaction that acts on it.
    """
    due = Schedule.objects.filter(Q(next_wake_at__lte=now) | Q(next_sleep_at__lte=now))
    ids = list(due.order_by("next_wake_at", "next_sleep_at").values_list("pk", flat=True)[:AT_ONCE])
    return step_each(partial(_keep, now=now), ids)


def _keep(schedule_id: int, *, now: datetime) -> None:
    """One schedule: move its moments on, and do what the latest of those that passed asks for."""
    row = Schedule.objects.select_related(
        "instance__owner", "instance__account", "instance__worker", "instance__snapshot"
    ).get(pk=schedule_id)
    instance = row.instance
    if instance.state == InstanceState.HIBERNATING:
        return  # it cannot be woken before it is asleep; the next tick looks again
    policy = policy_resolved(instance).policy
    times = policy.schedule
    wake_at = last_wake(times, now) if row.next_wake_at is not None and row.next_wake_at <= now else None
    sleep_at = last_sleep(times, now) if row.next_sleep_at is not None and row.next_sleep_at <= now else None
    with transaction.atomic():
        if not _take(row, policy, now=now):
            return
        if not policy.scheduled:
            return
        if wake_at is not None and (sleep_at is None or sleep_at < wake_at):
            _wake(instance, policy, wake_at, now=now)
        elif sleep_at is not None:
            _sleep(instance, policy, sleep_at, now=now)


def _take(row: Schedule, policy: Policy, *, now: datetime) -> bool:
    """Move the row's moments on. False where somebody else has done so."""
    wakes, sleeps = row.next_wake_at, row.next_sleep_at
    after: dict[str, Any] = {"next_wake_at": None, "next_sleep_at": None, "updated_at": now}
    if policy.scheduled:
        after["next_wake_at"] = next_wake(policy.schedule, now)
        after["next_sleep_at"] = next_sleep(policy.schedule, now)
    return Schedule.objects.filter(pk=row.pk, next_wake_at=wakes, next_sleep_at=sleeps).update(**after) == 1


def _wake(instance: Instance, policy: Policy, at: datetime, *, now: datetime) -> None:
    shown = _shown(policy.schedule.wake, policy)
    if not _sleeps(instance):
        _note(instance, because("schedule_awake_already", at=shown, state=instance.state), now=now)
        return
    reason = because("schedule_wakes", at=shown)
    try:
        instance_wake(instance, reason=reason, by="", now=now)
    except DomainError as refused:
        _note(instance, because("schedule_refused", at=shown, why=refused.message), now=now)
        return
    log.info(
        "instance=%s woken by its schedule at=%s late_s=%.0f", instance.pk, at, (now - at).total_seconds()
    )


def _sleep(instance: Instance, policy: Policy, at: datetime, *, now: datetime) -> None:
    if instance.state not in AWAKE:
        return
    shown = _shown(policy.schedule.sleep, policy)
    found, _, _ = verdict_now(instance, now=now, policy=policy)
    if not found.idle and found.reason.code not in UNKNOWN:
        _note(instance, because("schedule_put_off", at=shown, why=str(found.reason)), now=now)
        return
    reason = because("schedule_sleeps", at=shown)
    try:
        instance_hibernate(instance, reason=reason, by="", now=now)
    except DomainError as refused:
        _note(instance, because("schedule_refused", at=shown, why=refused.message), now=now)
        return
    log.info("instance=%s put to sleep by its schedule at=%s", instance.pk, at)


def _sleeps(instance: Instance) -> bool:
    """Whether a schedule may wake it: not where its owner gave it up, and not where its box was lost; that is a
    person's decision."""
    if instance.state == InstanceState.DELETED:
        return instance.reason_code == "paused_long_enough"
    return instance.state == InstanceState.HIBERNATED


def _note(instance: Instance, reason: Reason, *, now: datetime) -> None:
    log.info("instance=%s %s", instance.pk, reason)
    event_add(instance, "schedule_kept_otherwise", reason=reason, now=now)


def _shown(at: time | None, policy: Policy) -> str:
    return f"{at:%H:%M} {policy.schedule.zone}" if at else ""
