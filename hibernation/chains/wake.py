"""Waking an instance on any host: reserve, rent, boot, restore, resume. Provisioning is the same without a restore.

The snapshot is only read. Whatever goes wrong with a box, the box is given up and the next offer is tried; when every
offer has failed the instance is as asleep as it was before, and says why.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from core.chain_states import ChainState
from core.chains import Again, Definition, Goto, Next, Outcome, Run, Step, Stop, register
from core.models import Chain
from core.reasons import Reason, because
from core.transitions import advance, event_add
from hibernation.chains.subject import instance_of, subject
from hibernation.chains.work import BROKEN_OFF, POLL_S, ask, ended_with, is_open
from hibernation.models import Box, Instance
from hibernation.providers.base import CreateUnknown, OfferGone, Provider, ProviderRefused
from hibernation.services import boxes, offers, policies
from hibernation.services.wake import KIND
from hibernation.states import BoxState, InstanceState
from pool.models import Dispatch
from pool.services import workers
from pool.states import WorkerState
from snapshots.models import Snapshot
from snapshots.services import taking
from snapshots.states import SnapshotState

BOOT_MINUTES = 10.0
"""How long a rented box may take to answer. Real ones take about two minutes; some never come."""

OFFER_PATIENCE = timedelta(minutes=20)
"""How long a wake waits for an offer that fits before it gives up."""

BOXES_AT_MOST = 6
ON_WAKE_TIMEOUT_S = 600.0


def reserve(run: Run) -> Outcome:
    """Nothing is rented for a generation that could not be restored."""
    instance = subject(run)
    workers.worker_slots_set(instance.worker, 0)
    wanted = run.data.get("snapshot")
    if wanted is None:
        return Next()
    generation = Snapshot.objects.get(pk=wanted)
    if generation.state != SnapshotState.VERIFIED:
        return Stop(ChainState.FAILED, because("generation_damaged", generation=generation.generation))
    return Next()


def rent(run: Run) -> Outcome:
    """One box under a label that is in our row before the provider hears of it."""
    instance = subject(run)
    box = boxes.box_live(instance)
    if box is None:
        return _plan(run, instance)
    if box.state != BoxState.RENTING:
        return Next()
    provider = boxes.provider_of(box.account)
    if run.data.get("create_called") == box.label:
        return _look_for(run, box, provider)
    return _create(run, box, provider)


def _plan(run: Run, instance: Instance) -> Outcome:
    tried = list(run.data.get("tried", []))
    if len(tried) >= BOXES_AT_MOST:
        return Stop(ChainState.FAILED, because("wake_gave_up", tried=len(tried), why=run.chain.reason[:200]))
    ranked = offers.offers_ranked(
        instance,
        gpu_type=str(run.data.get("gpu_type") or ""),
        region=str(run.data.get("region") or ""),
        tried=tried,
        now=run.now,
    )
    if ranked:
        box = boxes.box_plan(instance, ranked[0], now=run.now)
        price = float(box.price_usd_per_h)
        return Again(0, because("renting", gpu=box.gpu_name, region=box.region, price=price))
    wish = {
        "gpu": str(run.data.get("gpu_type") or instance.gpu_type or "any"),
        "region": str(run.data.get("region") or instance.region or "any"),
        "cap": str(offers.price_cap(instance) or "any price"),
    }
    if run.now - run.chain.created_at > OFFER_PATIENCE:
        return Stop(ChainState.FAILED, because("no_offer", tried=len(tried), **wish))
    return Again(15, because("waiting_for_offer", **wish))


def _create(run: Run, box: Box, provider: Provider) -> Outcome:
    spec = boxes.box_spec(box)
    # From here on a create with this label may have happened, whatever becomes of this process.
    run.keep(create_called=box.label, create_at=run.now.isoformat())
    try:
        ref = provider.create(box.offer_id, spec)
    except OfferGone:
        return _next_offer(run, box, because("offer_gone", offer=box.offer_id))
    except ProviderRefused as error:
        boxes.box_abandon(box, reason=because("provider_refused", error=error.message[:300]), now=run.now)
        return Stop(ChainState.FAILED, because("provider_refused", error=error.message[:300]))
    except CreateUnknown:
        return Again(1, because("looking_for_box", label=box.label))
    boxes.box_rented(box, ref=ref, reason=because("rented", ref=ref), now=run.now)
    return Next()


def _look_for(run: Run, box: Box, provider: Provider) -> Outcome:
    """A create was begun and its answer is not known: only the label tells. Nothing is created before it was looked for."""
    found = provider.find(box.label)
    if found is not None:
        boxes.box_rented(box, ref=found.ref, reason=because("adopted", ref=found.ref), now=run.now)
        return Next()
    called_at = datetime.fromisoformat(str(run.data["create_at"]))
    wait_s = provider.create_settles_s - (run.now - called_at).total_seconds()
    if wait_s > 0:
        return Again(min(wait_s, 10.0), because("looking_for_box", label=box.label))
    return _next_offer(run, box, because("box_never_was", label=box.label), same_machine=True)


def _next_offer(
    run: Run, box: Box, reason: Reason, *, same_machine: bool = False, ban: bool = False
) -> Outcome:
    """Give this box up and rent another. The machine is not tried again in this wake, unless it was not its fault."""
    tried = list(run.data.get("tried", []))
    if not same_machine:
        tried.append(box.machine_id)
    boxes.box_abandon(box, reason=reason, now=run.now, ban=ban)
    run.keep(tried=tried, create_called=None, restores=0)
    return Goto("rent", reason)


def boot(run: Run) -> Outcome:
    """Wait for the box's agent, up to its deadline. A box that never comes up costs its machine a ban."""
    instance = subject(run)
    box = boxes.box_live(instance)
    if box is None:
        return Goto("rent", because("box_went", box="?"))
    worker = instance.worker
    if worker is not None and worker.epoch == box.epoch and worker.state == WorkerState.ONLINE:
        boxes.box_up(box, now=run.now)
        return Next()
    since = box.rented_at or box.state_since
    if run.now - since > timedelta(minutes=BOOT_MINUTES):
        return _next_offer(run, box, because("box_not_up", minutes=BOOT_MINUTES), ban=True)
    facts = boxes.provider_of(box.account).read(box.provider_ref)
    if facts is not None and facts.failed:
        return _next_offer(run, box, because("box_failed", message=facts.message[:200]), ban=True)
    if facts is None and boxes.box_absent(box, boxes.provider_of(box.account), now=run.now):
        return _next_offer(run, box, because("box_went", box=box.provider_ref))
    return Again(1 if facts is None else POLL_S, because("booting", box=box.provider_ref))


def restore(run: Run) -> Outcome:
    """Every file of that generation, hashed on the box and reported; anything else is no restore."""
    if run.data.get("snapshot") is None:
        return Next()
    instance = subject(run)
    box = boxes.box_live(instance)
    if box is None or instance.worker is None:
        return Goto("rent", because("box_went", box="?"))
    generation = Snapshot.objects.select_related("owner").get(pk=run.data["snapshot"])
    taking.restore_allow(generation, worker_ref=instance.worker.pk, worker_epoch=box.epoch)
    Instance.objects.filter(pk=instance.pk).update(restore_incomplete=True)
    attempt = int(run.data.get("restores", 0))
    dispatch = ask(
        run,
        instance,
        kind=Dispatch.Kind.RESTORE,
        ref=generation.pk,
        work={"snapshot_id": generation.pk, "content_id": generation.content_id},
        attempt=attempt,
    )
    run.keep(dispatch=dispatch.pk, box=box.pk)
    if is_open(dispatch):
        return _while_restoring(run, box, generation)
    got = (
        dispatch.result.get("content_id"),
        dispatch.result.get("files"),
        dispatch.result.get("logical_bytes"),
    )
    if dispatch.state == "succeeded" and got == (
        generation.content_id,
        generation.files,
        generation.logical_bytes,
    ):
        Instance.objects.filter(pk=instance.pk).update(restore_incomplete=False)
        return Next()
    error = (
        str(because("restore_mismatch", generation=generation.generation))
        if dispatch.state == "succeeded"
        else ended_with(dispatch)
    )
    if attempt == 0 or (dispatch.state in BROKEN_OFF and attempt < 3):
        run.keep(restores=attempt + 1)
        return Again(1, because("restoring", generation=generation.generation))
    return _next_offer(run, box, because("box_restore_failed", error=error[:300]))


def _while_restoring(run: Run, box: Box, generation: Snapshot) -> Outcome:
    """A box can die in the middle of a restore; the provider knows before the lease runs out."""
    provider = boxes.provider_of(box.account)
    if boxes.box_absent(box, provider, now=run.now):
        return _next_offer(run, box, because("box_went", box=box.provider_ref))
    return Again(POLL_S, because("restoring", generation=generation.generation))


def resume(run: Run) -> Outcome:
    """The workspace is the owner's again. What starts on wake is run; if that fails the instance is awake all the same."""
    instance = subject(run)
    box = boxes.box_live(instance)
    if box is None:
        return Goto("rent", because("box_went", box="?"))
    boxes.box_hand_over(box, now=run.now)
    run.keep(box=box.pk)
    if not instance.on_wake.strip():
        return Next()
    dispatch = ask(
        run,
        instance,
        kind=Dispatch.Kind.COMMAND,
        ref=instance.pk,
        work={"script": instance.on_wake, "env": {}, "timeout_s": ON_WAKE_TIMEOUT_S, "grace_s": 10},
    )
    if is_open(dispatch):
        return Again(POLL_S, because("resuming"))
    if dispatch.state != "succeeded":
        outcome = ended_with(dispatch)
        event_add(
            instance, "on_wake_failed", reason=because("on_wake_failed", outcome=outcome[:200]), now=run.now
        )
    return Next()


def ended(chain: Chain, state: ChainState, reason: Reason, *, now: datetime) -> None:
    """Awake with every byte in place, or asleep as before."""
    instance = instance_of(chain)
    if state == ChainState.SUCCEEDED:
        _awake(chain, instance, now)
        return
    box = boxes.box_live(instance)
    if box is not None:
        boxes.box_abandon(box, reason=because("box_not_wanted", why=str(reason)[:200]), now=now)
    if instance.worker is not None:
        boxes.worker_stands_down(instance, reason=reason, now=now)
    if instance.state == InstanceState.WAKING:
        advance(
            instance,
            InstanceState.HIBERNATED,
            reason=reason,
            now=now,
            restore_incomplete=False,
            snapshot_id=chain.data["snapshot"],
            hibernated_at=now,
            delete_due_at=now
            + timedelta(minutes=policies.policy_resolved(instance)[0].delete_after_pause_minutes),
        )
    elif instance.state == InstanceState.PROVISIONING:
        advance(instance, InstanceState.DELETED, reason=reason, now=now)


def _awake(chain: Chain, instance: Instance, now: datetime) -> None:
    generation = Snapshot.objects.filter(pk=chain.data.get("snapshot") or "").first()
    reason = because("first_start")
    if generation is not None:
        reason = because(
            "back_from_sleep",
            generation=generation.generation,
            files=generation.files,
            logical_bytes=generation.logical_bytes,
        )
    box = boxes.box_live(instance)
    advance(
        instance,
        InstanceState.RUNNING,
        reason=reason,
        now=now,
        awake_since=now,
        last_active_at=now,
        idle_since=None,
        idle_due_at=None,
        hibernated_at=None,
        restore_incomplete=False,
        data={"box": box.pk, "price_usd_per_h": str(box.price_usd_per_h)} if box else None,
    )
    workers.worker_undrain(instance.worker)
    workers.worker_slots_set(instance.worker, 1)


STEPS = (
    Step("reserve", reserve, limit_minutes=10),
    Step("rent", rent, limit_minutes=60),
    Step("boot", boot, limit_minutes=60),
    Step("restore", restore, limit_minutes=12 * 60),
    Step("resume", resume, limit_minutes=30),
)

WAKE = register(Definition(kind=KIND, steps=STEPS, ended=ended))
PROVISION = register(Definition(kind="provision", steps=STEPS, ended=ended))
