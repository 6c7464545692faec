"""Celery tasks of core: each one service call, ids in, a count out."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from core import chains, ticks
from core.alerts import checking, outbox


@shared_task(name=chains.TASK)
def chain_step(chain_id: str) -> bool:
    """Rung by whoever made the chain due. Two at once are safe: one wins the lease, the other returns False."""
    return chains.chain_enter(chain_id)


@shared_task(name="core.chains_tick")
def chains_tick() -> int:
    """Every 5 s: rings every chain that is due and that nobody holds. Two at once ring twice, which is harmless."""
    with ticks.tick("core.chains_tick"):
        return ticks.step_each(chains.chain_ring, chains.chains_due(now=timezone.now()))


@shared_task(name="core.alerts_tick")
def alerts_tick() -> int:
    """Every 15 s: opens and resolves alerts. Two at once are safe: one alert stands for each cause, by a constraint."""
    with ticks.tick("core.alerts_tick"):
        return checking.alerts_check(now=timezone.now())


@shared_task(name=outbox.TASK)
def alerts_deliver() -> int:
    """Every 15 s, and rung by the check. Two at once are safe: each delivery is claimed by one of them."""
    return outbox.deliveries_send(now=timezone.now())
