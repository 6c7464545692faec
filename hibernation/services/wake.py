"""Starting a wake, once, however many ask for it; and saying how long it will take."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from core import chains
from core.chain_states import ChainState
from core.errors import TooSoon, TransitionRefused
from core.models import Chain, ChainStep
from core.reasons import Reason, because
from core.transitions import advance
from hibernation.models import Instance
from hibernation.services.hibernate import KIND as HIBERNATE
from hibernation.services.hibernate import hibernation_stop
from hibernation.states import ASLEEP, InstanceState
from snapshots.models import Snapshot
from snapshots.services.taking import verified_latest
from snapshots.states import SnapshotState

KIND = "wake"
ASKED_EVERY_S = 60.0
RENT_GUESS_S = 120.0
RESTORE_GUESS_BYTES_PER_S = 70e9 / 300
"""What the estimate rests on until this installation has history of its own: 2 minutes to rent, 70 GB in 5."""


def instance_wake(
    instance: Instance,
    *,
    reason: Reason,
    gpu_type: str = "",
    region: str = "",
    by: str = "",
    now: datetime | None = None,
    limited: bool = False,
) -> Chain:
    """Begin to wake an instance, or join the wake that is under way. A thousand at once start one chain.

    One that is falling asleep and whose box is untouched stays awake: the chain that is returned is then its
    hibernation, stopped. Past that point it raises FallingAsleep, which says when to ask again.
    limited: a person's request, of which one a minute and instance is accepted; the others are TooSoon.
    Raises TransitionRefused where it cannot wake: it is awake, or there is no verified generation.
    """
    now = now or timezone.now()
    instance.refresh_from_db()
    under_way = chains.chain_active(subject_type=Instance.SUBJECT, subject_id=instance.pk)
    if under_way is not None and under_way.kind == HIBERNATE:
        try:
            return hibernation_stop(instance, by=by, reason=reason, now=now)
        except TransitionRefused:  # it has fallen asleep, or was stopped, between our look and our write
            instance.refresh_from_db()
    if limited:
        _ask(instance, now)
    if under_way is not None and under_way.kind == KIND:
        return under_way
    try:
        with transaction.atomic():
            return _begin(instance, reason, {"gpu_type": gpu_type, "region": region}, by=by, now=now)
    except TransitionRefused:
        # Somebody else won between our look and our write: their chain is the answer to this request too.
        joined = chains.chain_active(subject_type=Instance.SUBJECT, subject_id=instance.pk)
        if joined is not None and joined.kind == KIND:
            instance.refresh_from_db()
            return joined
        raise


def wake_stop(instance: Instance, *, by: str, now: datetime | None = None) -> Chain:
    """Take a wake back: its box is given up and the instance sleeps on. Once the box is handed over it stays awake.

    Raises TransitionRefused where no wake is under way.
    """
    chain = chains.chain_active(subject_type=Instance.SUBJECT, subject_id=instance.pk)
    if chain is None or chain.kind != KIND:
        raise TransitionRefused(f"instance {instance.pk} is not waking", hint="read it again")
    chain = chains.chain_stop(chain, ChainState.ABORTED, reason=because("asked", by=by), by=by, now=now)
    instance.refresh_from_db()
    return chain


def _begin(instance: Instance, reason: Reason, wishes: dict[str, str], *, by: str, now: datetime) -> Chain:
    generation = generation_of(instance)
    if instance.state in ASLEEP and generation is None:
        raise TransitionRefused(
            f"instance {instance.pk} has no verified generation to wake from",
            hint="there is nothing to restore: make a new instance",
            code="no_generation",
        )
    snapshot_id = generation.pk if generation else None
    advance(
        instance,
        InstanceState.WAKING,
        reason=reason,
        by=by,
        now=now,
        delete_due_at=None,
        snapshot_id=snapshot_id,
    )
    _still_there(instance, generation)
    return chains.chain_start(
        KIND,
        subject_type=Instance.SUBJECT,
        subject_id=instance.pk,
        owner_id=instance.owner_id,
        reason=reason,
        by=by,
        now=now,
        data={**wishes, "snapshot": snapshot_id, "tried": []},
    )


def generation_of(instance: Instance) -> Snapshot | None:
    """The generation that it sleeps on, also where the store is said to have lost some of it (the chain looks again);
    where its owner let that go, the newest that is left."""
    own = instance.snapshot
    if own is not None and own.state in (SnapshotState.VERIFIED, SnapshotState.DAMAGED):
        return own
    return verified_latest(instance.pk)


def _still_there(instance: Instance, generation: Snapshot | None) -> None:
    """Whoever lets a generation go holds its row: from here on the instance that wakes from it is seen first."""
    if generation is None:
        return
    row = Snapshot.objects.select_for_update().get(pk=generation.pk)
    if row.state not in (SnapshotState.VERIFIED, SnapshotState.DAMAGED):
        raise TransitionRefused(
            f"generation {row.generation} of instance {instance.pk} is {row.state}", code="no_generation"
        )


def _ask(instance: Instance, now: datetime) -> None:
    """Take this minute's request. One that could not begin anything anyway does not use it up."""
    if (
        not Instance.TABLE.allows(instance.state, InstanceState.WAKING)
        and instance.state != InstanceState.WAKING
    ):
        return
    last = now - timedelta(seconds=ASKED_EVERY_S)
    asked = instance.wake_asked_at
    # Looked at before it is written: of a crowd all but the first few read only.
    if asked is None or asked <= last:
        free = Q(wake_asked_at__isnull=True) | Q(wake_asked_at__lte=last)
        if Instance.objects.filter(free, pk=instance.pk).update(wake_asked_at=now) == 1:
            return
        asked = Instance.objects.values_list("wake_asked_at", flat=True).get(pk=instance.pk)
    since_s = (now - asked).total_seconds() if asked else 0.0
    raise TooSoon(
        f"a wake of {instance.pk} was asked for {max(0.0, since_s):.0f} s ago",
        retry_after_s=min(max(1.0, ASKED_EVERY_S - since_s), ASKED_EVERY_S),
        hint="one wake request a minute and instance; look at the instance to see how far it is",
    )


def wake_estimate(instance: Instance) -> dict[str, Any]:
    """How long a wake will take, in seconds: {rent_s, restore_s, total_s, bytes, basis}. basis: history or assumption."""
    snapshot = instance.snapshot
    logical_bytes = snapshot.logical_bytes if snapshot else 0
    past = list(
        ChainStep.objects.filter(chain__kind__in=(KIND, "provision"), step="boot", outcome="next").order_by(
            "-id"
        )[:20]
    )
    boots = sorted((step.ended_at - step.started_at).total_seconds() for step in past)
    rent_s = boots[len(boots) // 2] if boots else RENT_GUESS_S
    rate = _restore_rate() or RESTORE_GUESS_BYTES_PER_S
    restore_s = logical_bytes / rate
    return {
        "rent_s": round(rent_s, 1),
        "restore_s": round(restore_s, 1),
        "total_s": round(rent_s + restore_s, 1),
        "bytes": logical_bytes,
        "basis": "history" if boots else "assumption",
    }


def _restore_rate() -> float | None:
    """Bytes a second of this installation's last restores, as measured; None before the first."""
    steps = list(
        ChainStep.objects.filter(chain__kind=KIND, step="restore", outcome="next")
        .select_related("chain")
        .order_by("-id")[:10]
    )
    sizes = dict(
        Snapshot.objects.filter(pk__in=[step.chain.data.get("snapshot") for step in steps]).values_list(
            "pk", "logical_bytes"
        )
    )
    moved_bytes, taken_s = 0, 0.0
    for step in steps:
        moved_bytes += sizes.get(step.chain.data.get("snapshot"), 0)
        taken_s += (step.ended_at - step.started_at).total_seconds()
    return moved_bytes / taken_s if moved_bytes and taken_s > 0 else None
