"""What keeps an awake instance from being put to sleep, whoever asks: work on it, and a person's hold."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Q

from core.reasons import Reason, because
from hibernation.models import Instance
from pool import selectors as pool_selectors
from pool.models import HAUNTING, Dispatch
from pool.states import OPEN


def obstacle(instance: Instance, *, now: datetime) -> Reason | None:
    """The first thing that is in the way, worded; None where nothing is."""
    return work_on(instance) or hold_on(instance, now=now)


def work_on(instance: Instance) -> Reason | None:
    """A job or command that runs, or may still run, on its box, or a job that waits for it."""
    given = Q(state__in=OPEN) | Q(**HAUNTING)
    running = (
        Dispatch.objects.filter(given, worker=instance.worker_id, epoch=instance.epoch)
        .filter(kind__in=(Dispatch.Kind.JOB, Dispatch.Kind.COMMAND))
        .first()
    )
    if running is not None:
        return because("job_on_it", job=running.job_id or running.pk)
    waiting = pool_selectors.jobs_waiting_for_instances().filter(instance_ref=instance.pk).first()
    return because("job_waits_for_it", job=waiting.pk) if waiting is not None else None


def hold_on(instance: Instance, *, now: datetime) -> Reason | None:
    """Somebody keeps it awake."""
    until = Instance.objects.values_list("keep_awake_until", flat=True).get(pk=instance.pk)
    if until is None or until <= now:
        return None
    return because("kept_awake", until=until.isoformat(timespec="seconds"))
