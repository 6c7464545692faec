"""Whether anything happened on a box since its snapshot began, by its agent's readings. Unknown is activity."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from django.db.models import QuerySet

from core.reasons import Reason, because
from hibernation.idle import Reading, busy_reason
from hibernation.models import Instance
from hibernation.policy import Policy
from hibernation.services.policies import policy_resolved
from pool.models import Sample
from snapshots.models import Snapshot

LOOK_AGAIN_S = 5.0
"""How often the recheck looks by itself. It is nudged by every new reading."""


def stirring(instance: Instance, generation: Snapshot) -> Reason | None:
    """The first reading since the snapshot began that is not idle, worded; None where every reading is.

    Taking a snapshot itself makes the processor and the network busy: where the policy has thresholds for these, they
    count only for readings that the upload has no part in.
    """
    policy = policy_resolved(instance).policy
    during = _without_our_own(policy)
    after = _own_traffic_ends(policy, generation)
    rows = _samples(instance).filter(at__gt=generation.started_at).order_by("at", "id")
    for at, util, more in rows.values_list("at", "gpu_util", "readings").iterator():
        busy = busy_reason(policy if at > after else during, Reading(at, util, more))
        if busy is not None:
            return _worded(busy, at)
    return None


def reading_missing(instance: Instance, generation: Snapshot, *, now: datetime) -> bool:
    """Whether the newest reading is too old to say that nothing happened after the upload, or lately."""
    policy = policy_resolved(instance).policy
    newest = _samples(instance).order_by("-at", "-id").values_list("at", flat=True).first()
    if newest is None or newest <= (generation.committed_at or now):
        return True
    if _counts_our_own(policy) and newest <= _own_traffic_ends(policy, generation):
        return True
    return now - newest > policy.silence


def _samples(instance: Instance) -> QuerySet[Sample]:
    return Sample.objects.filter(worker=instance.worker_id, epoch=instance.epoch)


def _without_our_own(policy: Policy) -> Policy:
    return replace(policy, signals=replace(policy.signals, cpu_percent=None, net_bytes_per_s=None))


def _counts_our_own(policy: Policy) -> bool:
    return policy.signals.cpu_percent is not None or policy.signals.net_bytes_per_s is not None


def _own_traffic_ends(policy: Policy, generation: Snapshot) -> datetime:
    """A reading is a mean over the interval before it."""
    end = generation.committed_at or generation.started_at
    return end + timedelta(seconds=policy.check_interval_seconds)


def _worded(busy: Reason, at: datetime) -> Reason:
    moment = at.isoformat(timespec="seconds")
    match busy.code:
        case "awake_gpu_busy":
            return because("active_since_snapshot", util=busy.params["util"], at=moment)
        case "awake_gpu_unknown":
            return because("unknown_since_snapshot", at=moment)
        case "awake_signal":
            signal, value = busy.params["signal"], busy.params["value"]
            return because("signal_since_snapshot", signal=signal, value=value, at=moment)
        case _:
            return because("signal_unknown_since_snapshot", signal=busy.params["signal"], at=moment)
