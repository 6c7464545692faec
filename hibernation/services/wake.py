"""Starting a wake, once, however many ask for it; and saying how long it will take."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from core import chains
from core.errors import TooSoon, TransitionRefused
from core.models import Chain, ChainStep
from core.reasons import Reason
from core.transitions import advance
from hibernation.models import Instance
from hibernation.states import ASLEEP, InstanceState
from snapshots.models import Snapshot
from snapshots.services.taking import verified_latest

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

    limited: a person's request, of which one a minute and instance is accepted; the others are TooSoon.
    Raises TransitionRefused where it cannot wake: it is awake, or there is no verified generation.
    """
    now = now or timezone.now()
    if limited:
        _ask(instance, now)
    under_way = chains.chain_active(subject_type=Instance.SUBJECT, subject_id=instance.pk)
    if under_way is not None and under_way.kind == KIND:
        return under_way
    snapshot = instance.snapshot or verified_latest(instance.pk)
    if instance.state in ASLEEP and snapshot is None:
        raise TransitionRefused(
            f"instance {instance.pk} has no verified generation to wake from", code="no_generation"
        )
    try:
        with transaction.atomic():
            advance(instance, InstanceState.WAKING, reason=reason, by=by, now=now, delete_due_at=None)
            return chains.chain_start(
                KIND,
                subject_type=Instance.SUBJECT,
                subject_id=instance.pk,
                owner_id=instance.owner_id,
                reason=reason,
                by=by,
                now=now,
                data={
                    "gpu_type": gpu_type,
                    "region": region,
                    "snapshot": snapshot.pk if snapshot else None,
                    "tried": [],
                },
            )
    except TransitionRefused:
        # Somebody else won between our look and our write: their chain is the answer to this request too.
        joined = chains.chain_active(subject_type=Instance.SUBJECT, subject_id=instance.pk)
        if joined is not None and joined.kind == KIND:
            return joined
        raise


def _ask(instance: Instance, now: datetime) -> None:
    free = Q(wake_asked_at__isnull=True) | Q(wake_asked_at__lte=now - timedelta(seconds=ASKED_EVERY_S))
    if Instance.objects.filter(free, pk=instance.pk).update(wake_asked_at=now) == 1:
        return
    asked = Instance.objects.values_list("wake_asked_at", flat=True).get(pk=instance.pk)
    since_s = (now - asked).total_seconds() if asked else 0.0
    raise TooSoon(
        f"a wake of {instance.pk} was asked for {max(0.0, since_s):.0f} s ago",
        retry_after_s=max(1.0, ASKED_EVERY_S - since_s),
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
    steps = (
        ChainStep.objects.filter(step="restore", outcome="next").select_related("chain").order_by("-id")[:10]
    )
    moved_bytes, taken_s = 0.0, 0.0
    for step in steps:
        snapshot = Snapshot.objects.filter(pk=step.chain.data.get("snapshot")).only("logical_bytes").first()
        if snapshot is not None:
            moved_bytes += snapshot.logical_bytes
            taken_s += (step.ended_at - step.started_at).total_seconds()
    return moved_bytes / taken_s if moved_bytes and taken_s > 0 else None
