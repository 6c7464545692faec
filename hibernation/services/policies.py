"""Policies: read from four levels, set, and carried out on the rows that depend on them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from core.models import Event
from core.reasons import Reason
from core.transitions import event_add
from hibernation import policy as rules
from hibernation.models import Box, Instance, Policy
from hibernation.policy import Partial, PolicyInvalid, Resolved, parse, problems_of
from hibernation.providers.base import gpu_key
from hibernation.reasons import because
from hibernation.services.boxes import worker_locked
from hibernation.services.occurrences import schedules_refresh
from hibernation.states import LIVE, InstanceState
from pool.services.workers import worker_pace

log = logging.getLogger(__name__)

CHUNK = 500


class Levels:
    """The stored levels around some instances: read once, in two queries, asked for each instance.

    A level is parsed when it is first needed, so that one that cannot be read stops nobody else's instance.
    """

    def __init__(self, owner_ids: Iterable[int], instances: Iterable[Instance] = ()) -> None:
        self._configs: dict[_Key, Any] = {
            (row.scope, row.owner_id, gpu_key(row.gpu_type)): row.config
            for row in Policy.objects.filter(Q(scope=Policy.Scope.SITE) | Q(owner__in=set(owner_ids)))
        }
        self._said: dict[_Key, Partial] = {}
        any_gpu = [instance.pk for instance in instances if not instance.gpu_type]
        self._found = dict(
            Box.objects.filter(instance__in=any_gpu, state__in=LIVE).values_list("instance_id", "gpu_name")
            if any_gpu and any(scope == Policy.Scope.GPU_TYPE for scope, _, _ in self._configs)
            else ()
        )

    def put(self, scope: str, owner_id: int | None, gpu_type: str, said: Partial) -> None:
        """What a level would say, in place of what it says."""
        self._said[scope, owner_id, gpu_key(gpu_type)] = said

    def of(self, instance: Instance) -> Resolved:
        """The policy that counts for it. Its GPU type is the one that it asks for, else the one of its box."""
        gpu_type = instance.gpu_type or self._found.get(instance.pk, "")
        return self.resolve(owner_id=instance.owner_id, gpu_type=gpu_type, instance=parse(instance.config))

    def resolve(
        self, *, owner_id: int | None, gpu_type: str = "", instance: Partial = rules.NOTHING
    ) -> Resolved:
        return rules.resolve(
            instance=instance,
            gpu_type=self._level(Policy.Scope.GPU_TYPE, owner_id, gpu_key(gpu_type)),
            owner=self._level(Policy.Scope.OWNER, owner_id, ""),
            site=self._level(Policy.Scope.SITE, None, ""),
        )

    def _level(self, *key: Any) -> Partial:
        if key not in self._said:
            self._said[key] = parse(self._configs.get(key, {}))
        return self._said[key]


_Key = tuple[str, int | None, str]


def levels_of(instances: Sequence[Instance]) -> Levels:
    """The levels around these instances."""
    return Levels([instance.owner_id for instance in instances], instances)


def policy_resolved(instance: Instance) -> Resolved:
    """The policy that counts for an instance, and which level each of its fields comes from."""
    return levels_of([instance]).of(instance)


def policies_resolved(instances: Sequence[Instance]) -> dict[str, Resolved]:
    """The same for many, by id."""
    levels = levels_of(instances)
    return {instance.pk: levels.of(instance) for instance in instances}


def config_check(config: object, *, owner: AbstractBaseUser | None = None, gpu_type: str = "") -> None:
    """Raise PolicyInvalid, with every sentence, where an instance of this owner cannot have this configuration.

    Without an owner only what can be said of the configuration itself is said.
    """
    said = parse(config)
    if owner is not None:
        resolved = Levels([owner.pk]).resolve(owner_id=owner.pk, gpu_type=gpu_type, instance=said)
        _refuse(resolved)


def config_set(
    instance: Instance, config: dict[str, Any], *, by: str, now: datetime | None = None
) -> Resolved:
    """Replace what an instance says differently from its owner's policy, and act on it at once.

    Raises PolicyInvalid, and changes nothing, where the configuration is wrong by itself or together with the levels
    around it. An idle window that is running is measured anew from where it began.
    """
    now = now or timezone.now()
    before, instance.config = instance.config, config
    try:
        resolved = policy_resolved(instance)
        _refuse(resolved)
    except PolicyInvalid:
        instance.config = before
        raise
    with transaction.atomic():
        worker_locked(instance)
        Instance.objects.filter(pk=instance.pk).update(config=config)
        event_add(
            instance,
            "config_changed",
            reason=because("config_changed", by=by),
            by=by,
            now=now,
            data={"config": config, "before": before},
        )
        policies_apply(Instance.objects.filter(pk=instance.pk), now=now)
    instance.refresh_from_db()
    return resolved


def policy_check(*, scope: str, owner: AbstractBaseUser | None, gpu_type: str, config: object) -> None:
    """Raise PolicyInvalid, with every sentence, where this level cannot say this."""
    owner_id = owner.pk if owner else None
    levels = Levels([owner.pk] if owner else [])
    levels.put(scope, owner_id, gpu_type, parse(config))
    _refuse(levels.resolve(owner_id=owner_id, gpu_type=gpu_type))


def policy_set(
    *,
    scope: str,
    config: dict[str, Any],
    by: str,
    owner: AbstractBaseUser | None = None,
    gpu_type: str = "",
    now: datetime | None = None,
) -> Policy:
    """Say what the site, an owner, or an owner's GPU type wants; every instance that it concerns follows at once.

    Raises PolicyInvalid, and changes nothing, where it is wrong.
    """
    now = now or timezone.now()
    policy_check(scope=scope, owner=owner, gpu_type=gpu_type, config=config)
    with transaction.atomic():
        same = Policy.objects.filter(scope=scope, owner=owner)
        spelled = next((row.gpu_type for row in same if gpu_key(row.gpu_type) == gpu_key(gpu_type)), gpu_type)
        row, _ = Policy.objects.update_or_create(
            scope=scope, owner=owner, gpu_type=spelled, defaults={"config": config}
        )
        _audit(row, "policy_changed", because("policy_changed", by=by, scope=str(row)), by=by, now=now)
        policies_apply(_concerned(row), now=now)
    return row


def policy_remove(row: Policy, *, by: str, now: datetime | None = None) -> None:
    """Take a level away: its instances inherit what it said."""
    now = now or timezone.now()
    with transaction.atomic():
        _audit(row, "policy_removed", because("policy_removed", by=by, scope=str(row)), by=by, now=now)
        concerned = _concerned(row)
        row.delete()
        policies_apply(concerned, now=now)


def policies_apply(instances: QuerySet[Instance], *, now: datetime) -> int:
    """Carry out what the policies of these instances say by now on the rows that depend on it. Returns how many.

    Agents are told how often to post, schedules get their next moments, windows that are running their new end, and
    whatever is awake is judged again from all its readings.
    """
    ids = list(instances.values_list("pk", flat=True))
    for start in range(0, len(ids), CHUNK):
        chunk = list(Instance.objects.filter(pk__in=ids[start : start + CHUNK]).select_related("worker"))
        policies = {pk: resolved.policy for pk, resolved in policies_resolved(chunk).items()}
        for instance in chunk:  # all workers before any instance: the order in which everybody locks them
            interval_s = policies[instance.pk].check_interval_seconds
            if instance.worker is not None and instance.worker.check_interval_s != interval_s:
                worker_pace(instance.worker, check_interval_s=interval_s)
        for instance in chunk:
            _windows_move(instance, policies[instance.pk])
        schedules_refresh(chunk, policies, now=now)
        Instance.objects.filter(pk__in=list(policies)).update(judge_at=None, judged_to=None)
    return len(ids)


def _windows_move(instance: Instance, policy: rules.Policy) -> None:
    """The ends of the windows that are running: the pause of an idle one, the deletion of a hibernated one."""
    row = Instance.objects.filter(pk=instance.pk, state=instance.state)
    if instance.state == InstanceState.IDLE and instance.idle_since is not None:
        row.update(idle_due_at=F("idle_since") + policy.pause)
    elif instance.state == InstanceState.HIBERNATED and instance.hibernated_at is not None:
        window = timedelta(minutes=policy.delete_after_pause_minutes)
        row.update(delete_due_at=F("hibernated_at") + window)


def _concerned(row: Policy) -> QuerySet[Instance]:
    return Instance.objects.filter(owner=row.owner_id) if row.owner_id else Instance.objects.all()


def _refuse(resolved: Resolved) -> None:
    problems = problems_of(resolved.policy)
    if problems:
        raise PolicyInvalid(problems)


def _audit(row: Policy, code: str, reason: Reason, *, by: str, now: datetime) -> None:
    Event.objects.create(
        at=now,
        subject_type="policy",
        subject_id=str(row.pk),
        code=code,
        by=by,
        owner_id=row.owner_id,
        data={"scope": row.scope, "gpu_type": row.gpu_type, "config": row.config},
        **Instance.reason_columns(reason),
    )
    log.info("policy=%s %s by=%s", row.pk, reason, by)
