"""Boxes as rows: planned under a label of their own, handed over, let go only with a verified copy. What the provider
says of them is looked at in `pursuit`.

Whoever changes a box also changes its instance and its worker. The rows are locked in one order everywhere: chain,
worker, dispatch, instance, snapshot, box.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.module_loading import import_string

from core.errors import TransitionRefused
from core.ids import new_id
from core.reasons import Reason, because
from core.transitions import advance, event_add
from hibernation.models import Box, Instance, MachineBan
from hibernation.providers import registry
from hibernation.providers.base import BoxFacts, BoxSpec, Offer, Provider
from hibernation.states import LIVE, BoxState
from pool.models import Account, EnrollmentToken, Worker
from pool.services import enrollment, workers
from snapshots.models import Snapshot
from snapshots.services.taking import restore_forbid
from snapshots.states import SnapshotState

LABEL_PREFIX = "dormouse-"
JOIN_LIFE = timedelta(hours=2)
BAN_LIFE = timedelta(hours=24)


def provider_of(account: Account) -> Provider:
    """The account's provider. Raises ProviderRefused where its credentials cannot be read."""
    ours = registry.ProviderSettings(
        data_dir=settings.DATA_DIR,
        options=settings.PROVIDER_OPTIONS,
        agent_wheel=lambda: import_string(settings.AGENT_WHEEL)(),
    )
    return registry.provider_for(account.kind, account.credentials, ours, account_id=account.pk)


def box_live(instance: Instance) -> Box | None:
    """The instance's one box that is not on its way out."""
    return (
        Box.objects.select_related("account", "instance__worker")
        .filter(instance=instance, state__in=LIVE)
        .first()
    )


# -- coming ---------------------------------------------------------------------------------------------------------


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
        disk_bytes = offer.disk_bytes or instance.disk_bytes
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
            gpu_usd_per_h=offer.gpu_usd_per_h(disk_bytes=disk_bytes),
            disk_bytes=disk_bytes,
            disk_usd_per_gb_month=offer.disk_usd_per_gb_month,
            upload_usd_per_gb=offer.upload_usd_per_gb,
            download_usd_per_gb=offer.download_usd_per_gb,
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


def box_spec(box: Box, *, now: datetime) -> BoxSpec:
    """What the box is started with. Its one-use token takes up the instance's worker in the box's epoch."""
    instance = box.instance
    if instance.worker is None:
        raise TransitionRefused(f"instance {instance.pk} has no worker to enrol as")
    token = enrollment.enrollment_token_issue(
        account=box.account, worker=instance.worker, epoch=box.epoch, uses=1, life=JOIN_LIFE, by="", now=now
    )
    return BoxSpec(
        label=box.label,
        disk_bytes=instance.disk_bytes,
        url=settings.PUBLIC_URL,
        join_token=token,
        agent_name=instance.name,
    )


def box_asked_for(box: Box, *, now: datetime) -> None:
    """The provider is about to be asked to create it: from here on it may exist, whatever becomes of the caller.

    TransitionRefused where it has been asked for already: one label, one create.
    """
    planned = Box.objects.filter(pk=box.pk, state=BoxState.RENTING, create_asked_at__isnull=True)
    if planned.update(create_asked_at=now) != 1:
        raise TransitionRefused(f"box {box.pk} was asked for already", hint="look for its label")
    box.create_asked_at = now


def box_not_asked_for(box: Box) -> None:
    """The provider said that it has done nothing: it may be asked again."""
    Box.objects.filter(pk=box.pk, state=BoxState.RENTING).update(create_asked_at=None)
    box.create_asked_at = None


def box_rented(
    box: Box, *, ref: str, reason: Reason, now: datetime, rented_at: datetime | None = None
) -> None:
    """The provider has it: it is billed from rented_at, else from now. Again for the same box changes nothing."""
    if box.state == BoxState.RENTING:
        billed_from = min(rented_at or now, now)
        advance(box, BoxState.BOOTING, reason=reason, now=now, provider_ref=ref, rented_at=billed_from)


def box_refused(box: Box, *, reason: Reason, now: datetime) -> None:
    """It is certain that the provider has not created it."""
    advance(box, BoxState.REFUSED, reason=reason, now=now)
    _identity_ends(box, reason=reason, now=now)


def box_up(box: Box, *, now: datetime) -> None:
    """Its agent answers."""
    if box.state == BoxState.BOOTING:
        advance(box, BoxState.RUNNING, reason=because("box_answers"), now=now)


def box_hand_over(box: Box, *, now: datetime) -> None:
    """From here the box may hold new work: it can go only with a verified generation of its epoch."""
    mine = Box.objects.filter(pk=box.pk, state=BoxState.RUNNING)
    if not mine.filter(handed_over_at__isnull=False).exists():
        if mine.update(handed_over_at=now) != 1:
            raise TransitionRefused(f"box {box.pk} cannot be handed over: it does not run")
        box.handed_over_at = now


# -- going ----------------------------------------------------------------------------------------------------------


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
                pk=snapshot.pk, state=SnapshotState.VERIFIED, workspace_ref=box.instance_id, epoch=box.epoch
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
    """Mark a box as one that must go although nothing was saved, because its owner said so in so many words.

    Also for one that is stranded: the reconciler then sees to it. TransitionRefused without a name to hold to it.
    """
    if not by:
        raise TransitionRefused(f"box {box.pk} is not discarded: nobody has said so", hint="give a name")
    if box.state != BoxState.DESTROYING:
        reason = because("box_discarded", by=by)
        advance(
            box, BoxState.DESTROYING, reason=reason, by=by, now=now, discarded_by=by, destroy_asked_at=now
        )


def box_gone_discard(box: Box, *, by: str) -> None:
    """Its owner discards a box that has vanished already: should it come back, it must go. Once it has, by whoever came
    first, nothing changes."""
    Box.objects.filter(pk=box.pk, state=BoxState.GONE, discarded_by="").update(discarded_by=by)


def box_abandon(box: Box, *, reason: Reason, now: datetime, ban: bool = False) -> None:
    """A box that never held anybody's work is not wanted any more. The reconciler sees to it that it goes.

    TransitionRefused where it was handed over. One that the provider may have created without our having its answer is
    looked for and destroyed too. Its agent, should it come, is told to stand down.
    """
    with transaction.atomic():
        _identity_ends(box, reason=reason, now=now)
        row = Box.objects.select_for_update().select_related("account").get(pk=box.pk)
        if row.handed_over_at is not None:
            raise TransitionRefused(
                f"box {box.pk} was handed over: it goes only with a verified generation of epoch {box.epoch}",
                hint="hibernate its instance, or discard it",
            )
        if ban and row.machine_id:
            MachineBan.objects.update_or_create(
                account_kind=row.account.kind,
                machine_id=row.machine_id,
                defaults={"until": now + BAN_LIFE, "note": str(reason)[:200]},
            )
        if row.state == BoxState.RENTING and row.create_asked_at is None:
            advance(row, BoxState.REFUSED, reason=reason, now=now)
        elif row.state in LIVE:
            advance(row, BoxState.DESTROYING, reason=reason, now=now, destroy_asked_at=now)
    box.state = row.state


def box_gone(box: Box, *, reason: Reason, now: datetime) -> None:
    """It is seen to be gone: billing ends."""
    advance(box, BoxState.GONE, reason=reason, now=now, gone_at=now, absent_since=None)


# -- coming back ------------------------------------------------------------------------------------------------------


def may_go(box: Box) -> bool:
    """Whether nothing is lost with it: never handed over, saved by a generation of its epoch, or discarded by name."""
    saved = box.safe_snapshot_id is not None and box.safe_epoch == box.epoch
    return box.handed_over_at is None or saved or bool(box.discarded_by)


def box_turned_up(box: Box, facts: BoxFacts, *, now: datetime) -> None:
    """The provider lists a box whose row says that it is gone or never was, and nothing is lost with it: it must go."""
    if not may_go(box):
        raise TransitionRefused(f"box {box.pk} holds work that no generation holds")
    advance(
        box,
        BoxState.DESTROYING,
        reason=because("stray_box", ref=facts.ref, label=facts.label, state=box.state),
        now=now,
        provider_ref=facts.ref,
        rented_at=box.rented_at or facts.created_at or now,
        destroy_asked_at=now,
        gone_at=None,
        absent_since=None,
    )


def box_back(box: Box, state: BoxState, *, reason: Reason, now: datetime) -> None:
    """The provider lists a box again that it had lost, with work that no generation holds. It is never destroyed for
    that. state: running, where its instance still waits for it, else stranded."""
    advance(box, state, reason=reason, now=now, gone_at=None, absent_since=None)


# -- its agent --------------------------------------------------------------------------------------------------------


def worker_locked(instance: Instance) -> Worker | None:
    """The instance's worker as it is now, locked until the end of the transaction. The copy on `instance` follows."""
    if instance.worker_id is None:
        return None
    instance.worker = (
        Worker.objects.select_for_update(of=("self",)).select_related("account").get(pk=instance.worker_id)
    )
    return instance.worker


def worker_stands_down(instance: Instance, *, reason: Reason, now: datetime | None = None) -> None:
    """Whatever of the old box still speaks is answered with stand down. Call it in a transaction."""
    worker = worker_locked(instance)
    if worker is not None:
        workers.worker_retire(worker, reason=reason, now=now or timezone.now())
        restore_forbid(worker_ref=worker.pk)


def _identity_ends(box: Box, *, reason: Reason, now: datetime) -> None:
    """Its join token opens nothing any more; if its agent has enrolled, that stands down. A newer epoch is left alone."""
    instance = box.instance
    EnrollmentToken.objects.filter(worker=instance.worker_id, epoch=box.epoch).update(uses_left=0)
    worker = worker_locked(instance)
    if worker is not None and worker.epoch == box.epoch:
        worker_stands_down(instance, reason=reason, now=now)
