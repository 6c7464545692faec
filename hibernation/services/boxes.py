"""Boxes: rented under a label that was written down first, let go only with a verified copy, believed gone only when seen."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from core.errors import TransitionRefused
from core.ids import new_id
from core.reasons import Reason, because
from core.transitions import advance, event_add
from hibernation.models import Box, Instance, MachineBan
from hibernation.providers import registry
from hibernation.providers.base import BoxFacts, BoxSpec, Offer, Phase, Provider
from hibernation.states import LIVE, BoxState
from pool.models import Account
from pool.services import enrollment, workers
from snapshots.models import Snapshot
from snapshots.states import SnapshotState

LABEL_PREFIX = "dormouse-"
JOIN_LIFE = timedelta(hours=2)
BAN_LIFE = timedelta(hours=24)
SEEN_TWICE_S = 1.0
"""Absence counts when it was seen twice, this far apart: a provider's listing can lag behind itself."""


def provider_of(account: Account) -> Provider:
    """The account's provider. Raises ProviderRefused where its credentials cannot be read."""
    ours = registry.ProviderSettings(data_dir=settings.DATA_DIR)
    return registry.provider_for(account.kind, account.credentials, ours, account_id=account.pk)


def box_live(instance: Instance) -> Box | None:
    """The instance's one box that is not on its way out."""
    return Box.objects.select_related("account").filter(instance=instance, state__in=LIVE).first()


def box_plan(instance: Instance, offer: Offer, *, now: datetime) -> Box:
    """Write down the box that is about to be rented: the next epoch and a label of its own, before the provider is asked.

    Raises TransitionRefused where another worker has planned one meanwhile.
    """
    with transaction.atomic():
        epoch = instance.epoch + 1
        won = Instance.objects.filter(pk=instance.pk, state=instance.state, epoch=instance.epoch).update(
            epoch=epoch
        )
        if won != 1:
            raise TransitionRefused(f"instance {instance.pk} has moved on", hint="read it again")
        box_id = new_id("b")
        box = Box.objects.create(
            id=box_id,
            instance=instance,
            epoch=epoch,
            account=instance.account,
            label=f"{LABEL_PREFIX}{box_id}",
            machine_id=offer.machine_id,
            offer_id=offer.id,
            gpu_name=offer.gpu_name,
            region=offer.region,
            price_usd_per_h=offer.price_usd_per_h,
            state=BoxState.RENTING,
            state_since=now,
            created_at=now,
        )
        reason = because(
            "renting", gpu=offer.gpu_name, region=offer.region, price=float(offer.price_usd_per_h)
        )
        event_add(box, "box_renting", reason=reason, now=now, to_state=BoxState.RENTING)
    instance.epoch = epoch
    return box


def box_spec(box: Box) -> BoxSpec:
    """What the box is started with. Its one-use token takes up the instance's worker in the box's epoch."""
    instance = box.instance
    if instance.worker is None:
        raise TransitionRefused(f"instance {instance.pk} has no worker to enrol as")
    token = enrollment.enrollment_token_issue(
        account=box.account, worker=instance.worker, epoch=box.epoch, uses=1, life=JOIN_LIFE, by=""
    )
    return BoxSpec(
        label=box.label,
        disk_bytes=instance.disk_bytes,
        url=settings.PUBLIC_URL,
        join_token=token,
        agent_name=instance.name,
    )


def box_rented(box: Box, *, ref: str, reason: Reason, now: datetime) -> None:
    """The provider has it: it is billed from here. Again for the same box changes nothing."""
    if box.state == BoxState.RENTING:
        advance(box, BoxState.BOOTING, reason=reason, now=now, provider_ref=ref, rented_at=now)


def box_up(box: Box, *, now: datetime) -> None:
    """Its agent answers."""
    if box.state == BoxState.BOOTING:
        advance(box, BoxState.RUNNING, reason=because("box_answers"), now=now)


def box_hand_over(box: Box, *, now: datetime) -> None:
    """From here the box may hold new work: it can go only with a verified generation of its epoch."""
    Box.objects.filter(pk=box.pk, handed_over_at__isnull=True).update(handed_over_at=now)


def box_let_go(box: Box, snapshot: Snapshot, *, now: datetime) -> None:
    """Mark a box as one that must go, on the strength of a verified generation of its own epoch.

    TransitionRefused where the generation is not verified, not this instance's, or of another epoch; the database
    refuses the same by a check constraint. Again for a box that is going already changes nothing.
    """
    if box.state == BoxState.DESTROYING and box.safe_snapshot_id == snapshot.pk:
        return
    with transaction.atomic():
        safe = (
            Snapshot.objects.select_for_update()
            .filter(
                pk=snapshot.pk, state=SnapshotState.VERIFIED, instance_ref=box.instance_id, epoch=box.epoch
            )
            .first()
        )
        if safe is None:
            raise TransitionRefused(
                f"box {box.pk} keeps its workspace: {snapshot.pk} is not a verified generation of epoch {box.epoch}"
            )
        advance(
            box,
            BoxState.DESTROYING,
            reason=because("box_saved", generation=safe.generation),
            now=now,
            safe_snapshot_id=safe.pk,
            safe_epoch=safe.epoch,
            destroy_asked_at=now,
        )


def box_discard(box: Box, *, by: str, now: datetime) -> None:
    """Mark a box as one that must go although nothing was saved, because its owner said so in so many words."""
    if box.state != BoxState.DESTROYING:
        reason = because("box_discarded", by=by)
        advance(
            box, BoxState.DESTROYING, reason=reason, by=by, now=now, discarded_by=by, destroy_asked_at=now
        )


def box_abandon(box: Box, *, reason: Reason, now: datetime, ban: bool = False) -> None:
    """A box that never held anybody's work is not wanted any more. The reconciler sees to it that it goes."""
    if ban and box.machine_id:
        MachineBan.objects.update_or_create(
            account_kind=box.account.kind,
            machine_id=box.machine_id,
            defaults={"until": now + BAN_LIFE, "note": str(reason)[:200]},
        )
    if box.state == BoxState.RENTING:
        advance(box, BoxState.REFUSED, reason=reason, now=now)
    elif box.state in LIVE:
        advance(box, BoxState.DESTROYING, reason=reason, now=now, destroy_asked_at=now)


def box_pursue(box: Box, provider: Provider, *, now: datetime) -> BoxFacts | None:
    """Ask once more for a box to go, and look. None: it is seen to be gone (twice), and marked so.

    Otherwise what the provider still says of it. Never gives up and never believes a call that merely returned.
    """
    if box.state == BoxState.GONE:
        return None
    facts = provider.read(box.provider_ref) if box.provider_ref else None
    if facts is None:
        return _seen_absent(box, provider, now=now)
    Box.objects.filter(pk=box.pk).update(absent_since=None)
    box.absent_since = None
    provider.destroy(box.provider_ref)
    return facts


def box_absent(box: Box, provider: Provider, *, now: datetime) -> bool:
    """Whether a box that should be there is gone: read by id and complete listing, twice. Does not mark it."""
    if provider.read(box.provider_ref) is not None or _listed(box, provider) is not None:
        Box.objects.filter(pk=box.pk, absent_since__isnull=False).update(absent_since=None)
        return False
    if box.absent_since is None:
        Box.objects.filter(pk=box.pk).update(absent_since=now)
        box.absent_since = now
    return now - box.absent_since >= timedelta(seconds=SEEN_TWICE_S)


def box_gone(box: Box, *, reason: Reason, now: datetime) -> None:
    """It is gone: billing ends, and its agent's identity with it."""
    advance(box, BoxState.GONE, reason=reason, now=now, gone_at=now)


def _seen_absent(box: Box, provider: Provider, *, now: datetime) -> BoxFacts | None:
    listed = _listed(box, provider)
    if listed is not None:
        provider.destroy(listed.ref)
        return listed
    if box.absent_since is None:
        Box.objects.filter(pk=box.pk).update(absent_since=now)
        box.absent_since = now
        return BoxFacts(
            ref=box.provider_ref, label=box.label, phase=Phase.UNKNOWN, message="seen absent once"
        )
    if now - box.absent_since < timedelta(seconds=SEEN_TWICE_S):
        return BoxFacts(
            ref=box.provider_ref, label=box.label, phase=Phase.UNKNOWN, message="seen absent once"
        )
    box_gone(box, reason=because("box_seen_gone"), now=now)
    return None


def _listed(box: Box, provider: Provider) -> BoxFacts | None:
    for facts in provider.listing():
        if facts.label == box.label or (box.provider_ref and facts.ref == box.provider_ref):
            return facts
    return None


def worker_stands_down(instance: Instance, *, reason: Reason, now: datetime | None = None) -> None:
    """Whatever of the old box still speaks is answered with stand down."""
    if instance.worker is not None:
        workers.worker_retire(instance.worker, reason=reason, now=now or timezone.now())
