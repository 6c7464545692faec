"""What a verdict rests on, read from the rows: the readings of an instance's agent and what else holds it awake."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from django.db.models import F, Q

from hibernation.idle import Facts, Reading
from hibernation.models import Instance
from hibernation.policy import Policy
from hibernation.states import InstanceState
from pool.models import HAUNTING, Dispatch, Job, Sample
from pool.states import OPEN, JobState

READINGS_AT_MOST = 500
"""Of one instance, the newest: more of an idle stretch than that is known from earlier verdicts."""


def readings_new(instances: Sequence[Instance]) -> dict[str, list[Reading]]:
    """By id: the readings since each one's last verdict, the last one that it saw included. For those that had one."""
    found: dict[str, list[Reading]] = defaultdict(list)
    rows = (
        Sample.objects.filter(
            worker__instance__in=[instance.pk for instance in instances],
            epoch=F("worker__instance__epoch"),
            at__gte=F("worker__instance__judged_to"),
        )
        .order_by("at", "id")
        .values_list("worker__instance__pk", "at", "gpu_util", "readings")
    )
    for instance_id, at, util, more in rows:
        found[instance_id].append(Reading(at, util, more))
    return found


def readings_whole(instance: Instance, policy: Policy, *, now: datetime) -> list[Reading]:
    """All readings of the window, read again: of the idle stretch where there is one, else of one pause window."""
    since = now - policy.pause - policy.silence
    stretch = _stretch(instance)
    if stretch is not None:
        since = min(since, stretch[0])
    rows = (
        Sample.objects.filter(worker=instance.worker_id, epoch=instance.epoch, at__gte=since)
        .order_by("-at", "-id")
        .values_list("at", "gpu_util", "readings")[:READINGS_AT_MOST]
    )
    return [Reading(at, util, more) for at, util, more in reversed(rows)]


def facts_of(instance: Instance, work: Sequence[str]) -> Facts:
    """What the instance's row, and the work on it, say."""
    return Facts(
        awake_since=instance.awake_since,
        keep_awake_until=instance.keep_awake_until,
        work=tuple(work),
        last_active_at=instance.last_active_at,
        idle=_stretch(instance),
    )


def _stretch(instance: Instance) -> tuple[datetime, datetime] | None:
    if instance.state != InstanceState.IDLE or instance.idle_since is None or instance.judged_to is None:
        return None
    return instance.idle_since, instance.judged_to


def work_on(instances: Sequence[Instance]) -> dict[str, list[str]]:
    """By id: what runs on each, is on its way there, or waits for it. What was taken back but may still run there counts."""
    found: dict[str, list[str]] = defaultdict(list)
    for instance_id, words in _work_rows(instances):
        found[instance_id].append(words)
    return found


def _work_rows(instances: Sequence[Instance]) -> Iterator[tuple[str, str]]:
    of_worker: dict[Any, str] = {instance.worker_id: instance.pk for instance in instances}
    of_worker.pop(None, None)
    given = Dispatch.objects.filter(Q(state__in=OPEN) | Q(**HAUNTING), worker__in=list(of_worker))
    for worker_id, kind, job_id, pk in given.order_by("pk").values_list("worker_id", "kind", "job_id", "pk"):
        yield of_worker[worker_id], f"{kind} {job_id or pk}"
    waiting = Job.objects.filter(
        state=JobState.QUEUED, instance_ref__in=[instance.pk for instance in instances]
    )
    for instance_id, pk in waiting.order_by("queued_at").values_list("instance_ref", "pk"):
        yield instance_id, f"job {pk}"
