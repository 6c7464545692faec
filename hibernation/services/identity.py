"""The worker that an instance's boxes enrol as, one after the other."""

from __future__ import annotations

from datetime import datetime

from hibernation.models import Instance
from hibernation.services import policies
from pool.models import Worker
from pool.services import workers
from pool.states import WorkerState


def worker_furnish(instance: Instance, *, now: datetime) -> Worker:
    """Its worker; a new one where it has none yet, or where the last one was revoked and counts for nothing any more."""
    if instance.worker is not None and instance.worker.state != WorkerState.REVOKED:
        return instance.worker
    instance.worker = workers.worker_create(
        account=instance.account,
        name=f"{instance.name} · {instance.pk}"[:80],
        instance_ref=instance.pk,
        owner=instance.owner,
        slots=0,
        check_interval_s=policies.policy_resolved(instance).policy.check_interval_seconds,
        now=now,
    )
    instance.save(update_fields=["worker"])
    return instance.worker
