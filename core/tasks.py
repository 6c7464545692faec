"""Celery tasks of core: each one service call, ids in, a count out."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from core import chains, ticks


@shared_task(name=chains.TASK)
def chain_step(chain_id: str) -> bool:
    """Rung by whoever made the chain due. Two at once are safe: one wins the lease, the other returns False."""
    return chains.chain_enter(chain_id)


@shared_task(name="core.chains_tick")
def chains_tick() -> int:
    """Every 5 s: rings every chain that is due and that nobody holds. Two at once ring twice, which is harmless."""
    with ticks.tick("core.chains_tick"):
        return ticks.step_each(chains.chain_ring, chains.chains_due(now=timezone.now()))
