"""Instances: asked for, kept awake, given up."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from core import chains
from core.errors import DomainError, Invalid, TransitionRefused
from core.models import Chain
from core.reasons import because
from core.transitions import advance, event_add
from hibernation.models import Instance
from hibernation.providers.registry import provider_kinds
from hibernation.services import policies
from hibernation.services.hibernate import KIND as HIBERNATE
from hibernation.services.hibernate import hibernation_stop
from hibernation.states import AWAKE, InstanceState
from pool.models import Account
from pool.services import workers
from snapshots.models import Snapshot


def instance_create(
    *,
    owner: Any,
    name: str,
    account: Account,
    gpu_type: str = "",
    region: str = "",
    price_cap_usd_per_h: Decimal | None = None,
    disk_bytes: int = 50 * 1024**3,
    on_wake: str = "",
    config: dict[str, Any] | None = None,
    by: str,
    now: datetime | None = None,
) -> Instance:
    """A new instance, and the chain that rents its first box. Invalid, with nothing written, where a field is wrong."""
    now = now or timezone.now()
    if account.kind not in provider_kinds():
        raise Invalid(
            f"nothing can be rented from an account of {account.get_kind_display()}",
            hint=f"use an account of one of these kinds: {', '.join(sorted(provider_kinds()))}",
        )
    if account.owner_id != owner.pk:
        raise Invalid("the account belongs to somebody else", hint="use an account of your own")
    if not account.enabled:
        raise Invalid(f"account {account.label} is disabled", hint="enable it, or use another")
    policies.config_check(config or {})
    try:
        with transaction.atomic():
            instance = Instance.objects.create(
                owner=owner,
                name=name,
                account=account,
                gpu_type=gpu_type,
                region=region,
                price_cap_usd_per_h=price_cap_usd_per_h,
                disk_bytes=disk_bytes,
                on_wake=on_wake,
                config=config or {},
                state=InstanceState.PROVISIONING,
                state_since=now,
                created_at=now,
            )
            policy, _ = policies.policy_resolved(instance)
            instance.worker = workers.worker_create(
                account=account,
                name=instance.pk,
                instance_ref=instance.pk,
                owner=owner,
                slots=0,
                check_interval_s=policy.check_interval_seconds,
            )
            instance.save(update_fields=["worker"])
            reason = because("provision_asked", by=by)
            event_add(instance, "created", reason=reason, by=by, now=now, to_state=InstanceState.PROVISIONING)
            chains.chain_start(
                "provision",
                subject_type=Instance.SUBJECT,
                subject_id=instance.pk,
                owner_id=owner.pk,
                reason=reason,
                by=by,
                now=now,
                data={"gpu_type": "", "region": "", "snapshot": None, "tried": []},
            )
    except IntegrityError as error:
        raise Invalid(f"you have an instance called {name} already", hint="choose another name") from error
    return instance


def instance_keep_awake(
    instance: Instance, *, minutes: float, by: str, now: datetime | None = None
) -> Instance:
    """Hold an instance awake for so many minutes from now; 0 lifts the hold. Stops a hibernation that can still be stopped."""
    now = now or timezone.now()
    if not 0 <= minutes <= 7 * 24 * 60:
        raise Invalid(f"{minutes:g} minutes", hint="from 0 (lift the hold) to 10080 (a week)")
    until = now + timedelta(minutes=minutes) if minutes else None
    with transaction.atomic():
        Instance.objects.filter(pk=instance.pk).update(keep_awake_until=until)
        instance.keep_awake_until = until
        reason = because("keep_awake_asked", by=by, minutes=minutes)
        event_add(instance, "keep_awake", reason=reason, by=by, now=now)
        if minutes and instance.state == InstanceState.IDLE:
            advance(
                instance,
                InstanceState.RUNNING,
                reason=reason,
                by=by,
                now=now,
                last_active_at=now,
                idle_since=None,
                idle_due_at=None,
            )
    chain = chains.chain_active(subject_type=Instance.SUBJECT, subject_id=instance.pk)
    if minutes and chain is not None and chain.kind == HIBERNATE and chain.step not in ("destroy", "confirm"):
        hibernation_stop(instance, by=by, now=now)
    return instance


def instance_delete(
    instance: Instance, *, discard: bool, by: str, now: datetime | None = None
) -> Chain | None:
    """Give an instance up. Its snapshots stay until they are deleted themselves.

    An awake one is refused unless discard says, in so many words, that its workspace may be lost: then its box is
    destroyed unsaved and the chain that does it is returned. Refused while a chain is at work on it.
    """
    now = now or timezone.now()
    reason = because("discard_asked", by=by)
    under_way = chains.chain_active(subject_type=Instance.SUBJECT, subject_id=instance.pk)
    if under_way is not None:
        raise TransitionRefused(
            f"instance {instance.pk} is {instance.state}: its {under_way.kind} chain is at {under_way.step}",
            hint="wait until it is awake or asleep, then delete it",
        )
    if instance.state in AWAKE:
        if not discard:
            raise DomainError(
                f"instance {instance.pk} is {instance.state}: its workspace is not saved",
                hint="hibernate it first, or delete it with ?discard=workspace to lose what is on it",
                code="workspace_not_saved",
            )
        with transaction.atomic():
            advance(instance, InstanceState.HIBERNATING, reason=reason, by=by, now=now, idle_due_at=None)
            return chains.chain_start(
                "discard",
                subject_type=Instance.SUBJECT,
                subject_id=instance.pk,
                owner_id=instance.owner_id,
                reason=reason,
                by=by,
                now=now,
                data={"by": by, "epoch": instance.epoch},
            )
    if instance.state != InstanceState.DELETED:
        advance(instance, InstanceState.DELETED, reason=reason, by=by, now=now, delete_due_at=None)
        return None
    # Deleted by its policy already, from which its schedule would still wake it: now its owner has said so as well.
    given_up = Instance.objects.filter(pk=instance.pk, state=InstanceState.DELETED).exclude(
        reason_code=reason.code
    )
    if given_up.update(state_since=now, **Instance.reason_columns(reason)):
        event_add(instance, "discarded", reason=reason, by=by, now=now, to_state=InstanceState.DELETED)
    return None


def snapshot_needed(snapshot: Snapshot) -> str | None:
    """Who still needs a generation: an instance that sleeps on it, or wakes from it. Asked before one is let go."""
    sleeper = Instance.objects.filter(
        snapshot=snapshot,
        state__in=(InstanceState.HIBERNATED, InstanceState.WAKING, InstanceState.HIBERNATING),
    ).first()
    return f"{sleeper.name} is {sleeper.state} on it" if sleeper else None
