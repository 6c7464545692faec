"""The fixed ticks: which task runs how often, and why so often. People's schedules are rows of ours, not entries here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.db import transaction
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks

MARK = "Fixed tick: "
"""Begins the description of the rows that this table owns; an operator's own rows do not carry it."""

EXPIRE_SLACK_S = 4
"""Added to a tick's interval before its message is void: the clocks of two hosts may differ by as much, and a
worker that was away finds a handful of old ticks, not a backlog."""


@dataclass(frozen=True)
class Tick:
    """task: a Celery task by name, which is the row's name too. every_s: whole seconds.
    queue: where it is not the one that the task's route names."""

    task: str
    every_s: int
    why: str
    queue: str | None = None


TICKS = (
    Tick("core.chains_tick", 5, "rings the chains that are due; a lost doorbell costs no more than this"),
    Tick("config.chains_pulse", 5, "shows /readyz that the queue of chains is served", queue="chains"),
    Tick(
        "core.alerts_tick",
        15,
        "compares what is wrong with the alerts that stand; minutes matter, seconds don't",
    ),
    Tick("core.alerts.deliver", 15, "sends what is due again, should a doorbell have been lost"),
    Tick("pool.intake_tick", 1, "drains the agents' status posts; a console that lags by more looks broken"),
    Tick("pool.dispatch_tick", 2, "offers queued jobs to workers, should a doorbell have been lost"),
    Tick("pool.workers_tick", 5, "finds silent workers, expired leases and sessions near their limit"),
    Tick("pool.interrogation.tick", 10, "asks workers whose posts are overdue before they count as lost"),
    Tick("pool.history.tick", 30, "adds new readings to the history, and lets old rows go in small batches"),
    Tick("pool.job_logs_tick", 10, "moves jobs' output to the store, so that the database stays small"),
    Tick("pool.job_files_tick", 60, "lets go what jobs have left when its days are over"),
    Tick("pool.checkpoints_tick", 60, "lets checkpoints of ended jobs go; they are kept for days"),
    Tick("pool.kaggle_tick", 15, "asks Kaggle about the sessions and quotas that are due"),
    Tick(
        "hibernation.verdicts_tick",
        2,
        "judges idleness from stored samples; policies count fractions of minutes",
    ),
    Tick("hibernation.schedules_tick", 15, "starts people's wake and sleep times, which are told in minutes"),
    Tick(
        "hibernation.lifecycle_tick",
        30,
        "moves hibernated instances to deleted, and states past their time limit",
    ),
    Tick(
        "hibernation.reconcile_tick",
        15,
        "compares the rows with the provider's list: unknown boxes cost money",
    ),
)


@transaction.atomic
def schedule_upsert() -> int:
    """Make the beat's rows say what TICKS says; return how many were made, changed or removed.

    `enabled` is the operator's and never touched. Rows that left the table go; rows that people made stay.
    A running beat notices at its next look.
    """
    changed, _ = (
        PeriodicTask.objects.filter(description__startswith=MARK)
        .exclude(name__in=[tick.task for tick in TICKS])
        .delete()
    )
    for tick in TICKS:
        changed += _upsert(tick)
    if changed:
        PeriodicTasks.update_changed()
    return changed


def _upsert(tick: Tick) -> int:
    interval, _ = IntervalSchedule.objects.get_or_create(every=tick.every_s, period=IntervalSchedule.SECONDS)
    wanted = {
        "task": tick.task,
        "interval": interval,
        "crontab": None,
        "solar": None,
        "clocked": None,
        "queue": tick.queue,
        "expire_seconds": tick.every_s + EXPIRE_SLACK_S,
        "description": MARK + tick.why,
    }
    row = PeriodicTask.objects.filter(name=tick.task).first()
    if row is None:
        # A last run of long ago makes a new tick due at once, so that a fresh installation is ready in a second.
        PeriodicTask.objects.create(name=tick.task, last_run_at=timezone.now() - timedelta(days=1), **wanted)
        return 1
    stale = {name: value for name, value in wanted.items() if getattr(row, name) != value}
    return PeriodicTask.objects.filter(pk=row.pk).update(**stale) if stale else 0
