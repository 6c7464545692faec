"""Instances: asked for, kept awake, given up."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from core import chains
from core.chain_states import ChainState
from core.errors import DomainError, Invalid, TransitionRefused
from core.models import Chain
from core.reasons import Reason, because
from core.text import storable
from core.transitions import advance, event_add
from hibernation.models import Box, Instance
from hibernation.providers.registry import provider_kinds
from hibernation.services import policies
from hibernation.services.boxes import worker_locked
from hibernation.services.hibernate import KIND as HIBERNATE
from hibernation.services.hibernate import hibernation_stop
from hibernation.services.identity import worker_furnish
from hibernation.services.stranded import stranded_discard_all
from hibernation.services.wake import generation_of
from hibernation.states import ASLEEP, AWAKE, BoxState, InstanceState
from pool.models import Account
from pool.services import workers
from snapshots.models import Snapshot
from snapshots.services.taking import verified_latest
from snapshots.states import SnapshotState

NAME_LIMIT = 80
ON_WAKE_LIMIT = 64 * 1024
DISK_BYTES_LIMIT = 64 * 1024**4
PRICE_CAP_LIMIT = 1_000_000
KEEP_AWAKE_LIMIT_MINUTES = 7 * 24 * 60


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
    """A new instance, and the chain that rents its first box. Invalid, with nothing written, where a field is wrong.

    The name of one that was given up without ever having held anything is free again.
    """
    now = now or timezone.now()
    _check_account(account, owner)
    _check_fields(
        name=name,
        gpu_type=gpu_type,
        region=region,
        price_cap_usd_per_h=price_cap_usd_per_h,
        disk_bytes=disk_bytes,
        on_wake=on_wake,
    )
    policies.config_check(config or {}, owner=owner, gpu_type=gpu_type)
    reason = because("provision_asked", by=by)
    try:
        with transaction.atomic():
            _name_free(owner, name)
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
                **Instance.reason_columns(reason),
            )
            _furnish(instance, reason=reason, by=by, now=now)
    except IntegrityError as error:
        raise Invalid(f"you have an instance called {name} already", hint="choose another name") from error
    return instance


def _furnish(instance: Instance, *, reason: Reason, by: str, now: datetime) -> None:
    """Its worker, its schedule, its first event, and the chain that rents its box."""
    worker_furnish(instance, now=now)
    policies.policies_apply(Instance.objects.filter(pk=instance.pk), now=now)
    event_add(instance, "created", reason=reason, by=by, now=now, to_state=InstanceState.PROVISIONING)
    chains.chain_start(
        "provision",
        subject_type=Instance.SUBJECT,
        subject_id=instance.pk,
        owner_id=instance.owner_id,
        reason=reason,
        by=by,
        now=now,
        data={"gpu_type": "", "region": "", "snapshot": None, "tried": []},
    )


def _check_account(account: Account, owner: Any) -> None:
    if account.kind not in provider_kinds():
        raise Invalid(
            f"nothing can be rented from an account of {account.get_kind_display()}",
            hint=f"use an account of one of these kinds: {', '.join(sorted(provider_kinds()))}",
        )
    if account.owner_id != owner.pk:
        raise Invalid("the account belongs to somebody else", hint="use an account of your own")
    if not account.enabled:
        raise Invalid(f"account {account.label} is disabled", hint="enable it, or use another")


def _check_fields(
    *,
    name: str,
    gpu_type: str,
    region: str,
    price_cap_usd_per_h: Decimal | None,
    disk_bytes: int,
    on_wake: str,
) -> None:
    if not name.strip() or len(name) > NAME_LIMIT or not name.isprintable():
        raise Invalid(
            f"the name {name[:NAME_LIMIT]!r} will not do", hint=f"1 to {NAME_LIMIT} printable characters"
        )
    for what, text, limit in (("gpu_type", gpu_type, 80), ("region", region, 40)):
        if len(text) > limit or not text.isprintable():
            raise Invalid(
                f"{what} {text[:limit]!r} will not do", hint=f"at most {limit} printable characters"
            )
    cap = price_cap_usd_per_h
    if cap is not None and not (cap.is_finite() and 0 < cap < PRICE_CAP_LIMIT):
        raise Invalid(
            f"a price cap of {cap} $ an hour will not do", hint=f"more than 0, less than {PRICE_CAP_LIMIT}"
        )
    if not 0 < disk_bytes <= DISK_BYTES_LIMIT:
        raise Invalid(f"a disk of {disk_bytes} bytes", hint=f"from 1 to {DISK_BYTES_LIMIT}")
    if storable(on_wake) != on_wake or len(on_wake.encode()) > ON_WAKE_LIMIT:
        raise Invalid(
            "what starts on wake will not do", hint=f"at most {ON_WAKE_LIMIT} bytes of text, no NUL"
        )


def _name_free(owner: Any, name: str) -> None:
    """One that was given up before it held anything does not keep its name from the next try."""
    given_up = Instance.objects.filter(
        owner=owner, name=name, state=InstanceState.DELETED, snapshot__isnull=True
    ).first()
    if given_up is not None and not Snapshot.objects.filter(workspace_ref=given_up.pk).exists():
        suffix = f" ({given_up.pk})"
        Instance.objects.filter(pk=given_up.pk).update(name=name[: NAME_LIMIT - len(suffix)] + suffix)


def instance_keep_awake(
    instance: Instance, *, minutes: float, by: str, now: datetime | None = None
) -> Instance:
    """Hold an instance awake for so many minutes from now; 0 lifts the hold. Stops a hibernation that can still be stopped.

    Raises FallingAsleep where that is too late, TransitionRefused where it sleeps already or is being given up.
    """
    now = now or timezone.now()
    if not 0 <= minutes <= KEEP_AWAKE_LIMIT_MINUTES:
        raise Invalid(
            f"{minutes:g} minutes", hint=f"from 0 (lift the hold) to {KEEP_AWAKE_LIMIT_MINUTES} (a week)"
        )
    reason = because("keep_awake_asked", by=by, minutes=minutes)
    chain = chains.chain_active(subject_type=Instance.SUBJECT, subject_id=instance.pk)
    with transaction.atomic():
        if minutes and chain is not None and chain.kind == HIBERNATE:
            _stay(instance, reason, by=by, now=now)
        row = Instance.objects.select_for_update().get(pk=instance.pk)
        if minutes and row.state in ASLEEP:
            raise TransitionRefused(f"instance {row.pk} is {row.state}", hint="wake it first")
        if minutes and chain is not None and chain.kind == "discard":
            raise TransitionRefused(
                f"instance {row.pk} is being given up: {chain.by} has discarded its workspace",
                hint="what its snapshots hold can be woken once it is deleted",
            )
        _hold(row, minutes, reason, by=by, now=now)
    instance.refresh_from_db()
    return instance


def _stay(instance: Instance, reason: Reason, *, by: str, now: datetime) -> None:
    try:
        hibernation_stop(instance, by=by, reason=reason, now=now)
    except TransitionRefused:
        return  # it ended between the look and the write: the row says what it is now


def _hold(row: Instance, minutes: float, reason: Reason, *, by: str, now: datetime) -> None:
    """With the row locked, so that no verdict comes between the hold and what it means."""
    Instance.objects.filter(pk=row.pk).update(
        keep_awake_until=now + timedelta(minutes=minutes) if minutes else None, judge_at=now
    )
    event_add(row, "keep_awake", reason=reason, by=by, now=now)
    if minutes and row.state == InstanceState.IDLE:
        nothing = {"idle_since": None, "idle_due_at": None}
        advance(row, InstanceState.RUNNING, reason=reason, by=by, now=now, last_active_at=now, **nothing)


def instance_delete(
    instance: Instance, *, discard: bool, by: str, now: datetime | None = None
) -> Chain | None:
    """Give an instance up. Its snapshots stay until they are deleted themselves.

    An awake one is refused unless discard says, in so many words, that its workspace may be lost: then its box is
    destroyed unsaved and the chain that does it is returned; boxes of it that are stranded go with it. One that is still
    being provisioned is stopped, and one that falls asleep too where it is discarded; otherwise it is refused while a
    chain is at work on it.
    """
    now = now or timezone.now()
    instance.refresh_from_db()
    reason = because("discard_asked", by=by)
    under_way = chains.chain_active(subject_type=Instance.SUBJECT, subject_id=instance.pk)
    if under_way is not None:
        _out_of_the_way(instance, under_way, reason, discard=discard, by=by, now=now)
    if instance.state in AWAKE:
        if not discard:
            raise DomainError(
                f"instance {instance.pk} is {instance.state}: its workspace is not saved",
                hint="hibernate it first, or delete it with ?discard=workspace to lose what is on it",
                code="workspace_not_saved",
            )
        return _discard(instance, reason, by=by, now=now)
    with transaction.atomic():
        if instance.state != InstanceState.DELETED:
            advance(instance, InstanceState.DELETED, reason=reason, by=by, now=now, delete_due_at=None)
        else:
            _give_up_for_good(instance, reason, by=by, now=now)
        if discard:  # a box that its provider had lost need not be kept, should it come back
            lost = Box.objects.filter(instance=instance, state=BoxState.GONE, discarded_by="")
            lost.update(discarded_by=by)
            stranded_discard_all(instance, by=by, now=now)
    return None


def _out_of_the_way(
    instance: Instance, chain: Chain, reason: Reason, *, discard: bool, by: str, now: datetime
) -> None:
    """Stop what the giving up makes pointless; refuse where it would be lost unseen."""
    if chain.kind == "provision" or (chain.kind == HIBERNATE and discard):
        chains.chain_stop(chain, ChainState.ABORTED, reason=reason, by=by, now=now)
        instance.refresh_from_db()
        return
    raise TransitionRefused(
        f"instance {instance.pk} is {instance.state}: its {chain.kind} chain is at {chain.step}",
        hint="wait until it is awake or asleep, then delete it",
    )


def _discard(instance: Instance, reason: Reason, *, by: str, now: datetime) -> Chain:
    with transaction.atomic():
        worker = worker_locked(instance)
        advance(instance, InstanceState.HIBERNATING, reason=reason, by=by, now=now, idle_due_at=None)
        if worker is not None:
            workers.worker_slots_set(worker, 0)
        stranded_discard_all(instance, by=by, now=now)
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


def _give_up_for_good(instance: Instance, reason: Reason, *, by: str, now: datetime) -> None:
    """Deleted by its policy already, from which its schedule would still wake it: now its owner has said so as well."""
    given_up = Instance.objects.filter(pk=instance.pk, state=InstanceState.DELETED).exclude(
        reason_code=reason.code
    )
    if given_up.update(state_since=now, **Instance.reason_columns(reason)):
        event_add(instance, "discarded", reason=reason, by=by, now=now, to_state=InstanceState.DELETED)


def snapshot_needed(snapshot: Snapshot) -> str | None:
    """Who still needs a generation, in words: an instance that sleeps on it or can only be woken from it, or a box that
    goes on its strength. Asked, with the generation's row locked, before one is let go."""
    states = (
        InstanceState.HIBERNATED,
        InstanceState.WAKING,
        InstanceState.HIBERNATING,
        InstanceState.LOST,
    )
    sleepers = Instance.objects.filter(pk=snapshot.workspace_ref, state__in=states)
    sleeper = sleepers.select_related("snapshot").first()
    if sleeper is not None and _wakes_from(sleeper, snapshot):
        return f"{sleeper.name} is {sleeper.state} on it"
    going = Box.objects.filter(safe_snapshot=snapshot, state=BoxState.DESTROYING).first()
    return f"box {going.pk} is being destroyed on its strength" if going is not None else None


def _wakes_from(sleeper: Instance, snapshot: Snapshot) -> bool:
    """Whether it would be woken from this generation. A damaged one its owner may let go for an older one that is whole."""
    asleep = sleeper.state in (InstanceState.HIBERNATED, InstanceState.LOST)
    if sleeper.snapshot_id == snapshot.pk:
        return not (
            asleep and snapshot.state == SnapshotState.DAMAGED and verified_latest(sleeper.pk) is not None
        )
    return asleep and generation_of(sleeper) == snapshot
