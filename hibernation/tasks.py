"""Celery tasks of hibernation: periodic checks, each one service call."""

from __future__ import annotations

import logging
from functools import partial

from celery import shared_task
from django.utils import timezone

from core.doorbell import ring
from core.ticks import step_each, tick
from hibernation.providers.base import ProviderError
from hibernation.services import lifecycle, reconcile, schedules, verdicts
from pool.models import Account

log = logging.getLogger(__name__)


@shared_task(name="hibernation.verdicts_tick")
def verdicts_tick() -> int:
    """Every 2 s, and rung with new samples. Two at once are safe: a verdict acts through guarded transitions."""
    with tick("hibernation.verdicts_tick"):
        return verdicts.verdicts_tick(now=timezone.now())


@shared_task(name="hibernation.schedules_tick")
def schedules_tick() -> int:
    """Every 15 s. Two at once are safe: each occurrence is taken by one guarded UPDATE."""
    with tick("hibernation.schedules_tick"):
        return schedules.schedules_tick(now=timezone.now())


@shared_task(name="hibernation.lifecycle_tick")
def lifecycle_tick() -> int:
    """Every 30 s. Two at once are safe: the second finds the state moved, and is refused."""
    with tick("hibernation.lifecycle_tick") as _:
        now = timezone.now()
        ended = step_each(
            partial(lifecycle.instance_pause_end, now=now), lifecycle.instances_to_delete(now=now)
        )
        return ended + lifecycle.overdue_mark(now=now)


@shared_task(name="hibernation.reconcile_tick")
def reconcile_tick() -> int:
    """Every 15 s: rings one task for each account to look at. Two at once ring twice, which is harmless."""
    with tick("hibernation.reconcile_tick"):
        ids = reconcile.accounts_to_reconcile(now=timezone.now())
        for account_id in ids:
            # A provider that is slow must not find a message for each tick that it kept waiting.
            ring("hibernation.account_reconcile", account_id, void_after_s=reconcile.TICK_S)
        return len(ids)


@shared_task(name="hibernation.account_reconcile")
def account_reconcile(account_id: str) -> int:
    """Rung by the tick. Two at once are safe: an account is one worker's at a time, and each row is won by one
    guarded UPDATE."""
    account = Account.objects.filter(pk=account_id).first()
    if account is None:
        return 0
    try:
        return reconcile.account_reconcile(account, now=timezone.now())
    except ProviderError as error:
        log.warning("account=%s not reconciled: %s", account_id, error)
        return 0
