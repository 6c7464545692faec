"""Waking an instance on any host: reserve, rent, boot, restore, resume. Provisioning is the same without a restore.

The snapshot is only read. Whatever goes wrong with a box before it is handed over, the box is given up and the next
offer is tried; when every offer has failed the instance is as asleep as it was before, and says why. From the hand-over
on the workspace is its owner's, and the instance is awake whatever becomes of the chain.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from core.chain_states import ChainState
from core.chains import Again, Definition, Goto, Next, Outcome, Run, Step, Stop, register
from core.models import Chain
from core.reasons import Reason, because
from core.transitions import advance, event_add
from hibernation.chains.renting import next_offer, rent
from hibernation.chains.subject import instance_of, subject
from hibernation.chains.work import (
    BROKEN_OFF,
    POLL_S,
    SILENCE,
    agent_silent,
    ask,
    ended_with,
    is_open,
    take_back,
)
from hibernation.models import Box, Instance
from hibernation.services import boxes, policies, pursuit
from hibernation.services.identity import worker_furnish
from hibernation.services.wake import KIND
from hibernation.states import InstanceState
from pool.models import Dispatch
from pool.services import workers
from pool.states import LISTENING, DispatchState
from snapshots.models import Snapshot
from snapshots.services import taking, verifying
from snapshots.states import SnapshotState

RESTORE_TRIES = 4
START_TRIES = 3
"""How often what starts on wake is asked for, where the agent went away before it could say how it ended."""

ON_WAKE_TIMEOUT_S = 600.0


def reserve(run: Run) -> Outcome:
    """Nothing is rented for a generation that could not be restored."""
    instance = subject(run)
    if not instance.account.enabled:
        return Stop(ChainState.FAILED, because("account_disabled"))
    with run.holding():
        workers.worker_slots_set(worker_furnish(instance, now=run.now), 0)
    if run.data.get("snapshot") is None:
        return Next()
    generation = _generation(run)
    # Perhaps the store was only away for a while; or it is the store, and not the box, that a restore failed for.
    if generation.state == SnapshotState.DAMAGED or run.data.get("rented"):
        verifying.snapshot_recheck(generation)
    if generation.state != SnapshotState.VERIFIED:
        return Stop(ChainState.FAILED, because("generation_damaged", generation=generation.generation))
    return Next()


def boot(run: Run) -> Outcome:
    """Wait for the box's agent, up to its deadline. A box that never comes up costs its machine a ban."""
    instance = subject(run)
    box = boxes.box_live(instance)
    if box is None:
        return Goto("rent", because("box_went", box="?"))
    worker = instance.worker
    if worker is not None and worker.epoch == box.epoch and worker.state in LISTENING:
        with run.holding():
            boxes.box_up(box, now=run.now)
        return Next()
    provider = boxes.provider_of(box.account)
    if run.step_age > timedelta(minutes=provider.boot_minutes):
        return next_offer(run, box, because("box_not_up", minutes=provider.boot_minutes), ban=True)
    facts = provider.read(box.provider_ref)
    if facts is not None and facts.failed:
        return next_offer(run, box, because("box_failed", message=facts.message[:200]), ban=True)
    if facts is None and pursuit.box_missing(box, provider, now=run.now):
        return next_offer(run, box, because("box_went", box=box.provider_ref))
    return Again(1 if facts is None else POLL_S, because("booting", box=box.provider_ref))


def restore(run: Run) -> Outcome:
    """Every file of that generation, hashed on the box and reported; anything else is no restore."""
    if run.data.get("snapshot") is None:
        return Next()
    instance = subject(run)
    box = boxes.box_live(instance)
    if box is None:
        return Goto("rent", because("box_went", box="?"))
    if pursuit.box_missing(box, boxes.provider_of(box.account), now=run.now):
        # A box can die in the middle of a restore; the provider knows before the lease runs out.
        return next_offer(run, box, because("box_went", box=box.provider_ref))
    silent = agent_silent(run, instance)
    if silent is not None and silent < SILENCE:
        return Again(POLL_S, because("agent_away"))
    if silent is not None:
        minutes = round(silent.total_seconds() / 60, 1)
        return next_offer(run, box, because("agent_silent_restoring", minutes=minutes), ban=True)
    generation, attempt = _generation(run), int(run.data.get("restores", 0))
    with run.holding():
        dispatch = _asked(run, instance, box, generation, attempt)
    if is_open(dispatch):
        return Again(POLL_S, because("restoring", generation=generation.generation))
    if _is_whole(dispatch, generation):
        with run.holding():
            Instance.objects.filter(pk=instance.pk).update(restore_incomplete=False)
        return Next()
    if attempt == 0 or (dispatch.state in BROKEN_OFF and attempt + 1 < RESTORE_TRIES):
        run.keep(restores=attempt + 1)
        return Again(0, because("restoring", generation=generation.generation))
    error = ended_with(dispatch)
    if dispatch.state == DispatchState.SUCCEEDED:
        error = str(because("restore_mismatch", generation=generation.generation))
    return next_offer(run, box, because("box_restore_failed", error=error[:300]), step="reserve")


def _asked(run: Run, instance: Instance, box: Box, generation: Snapshot, attempt: int) -> Dispatch:
    assert instance.worker is not None, "an instance with a chain has a worker"
    taking.restore_allow(generation, worker_ref=instance.worker.pk, worker_epoch=box.epoch)
    dispatch = ask(
        run,
        instance,
        kind=Dispatch.Kind.RESTORE,
        ref=generation.pk,
        work={"snapshot_id": generation.pk, "content_id": generation.content_id},
        attempt=attempt,
    )
    Instance.objects.filter(pk=instance.pk).update(restore_incomplete=True)
    if run.data.get("box") != box.pk:
        run.keep(box=box.pk)
    return dispatch


def _is_whole(dispatch: Dispatch, generation: Snapshot) -> bool:
    """Whether the agent reported exactly this generation: its content id, its files, its bytes."""
    wanted = {name: getattr(generation, name) for name in ("content_id", "files", "logical_bytes")}
    got = {name: dispatch.result.get(name) for name in wanted}
    return dispatch.state == DispatchState.SUCCEEDED and got == wanted


def resume(run: Run) -> Outcome:
    """The workspace is the owner's again. What starts on wake is run; if that fails the instance is awake all the same."""
    instance = subject(run)
    box = boxes.box_live(instance)
    if box is None:
        return Goto("rent", because("box_went", box="?"))
    if box.handed_over_at is None:
        with run.holding():
            boxes.box_hand_over(box, now=run.now)
            run.keep(box=box.pk)
    if not instance.on_wake.strip():
        return Next()
    attempt = int(run.data.get("starts", 0))
    with run.holding():
        dispatch = ask(
            run,
            instance,
            kind=Dispatch.Kind.COMMAND,
            ref=instance.pk,
            work={"script": instance.on_wake, "env": {}, "timeout_s": ON_WAKE_TIMEOUT_S, "grace_s": 10},
            attempt=attempt,
        )
    if is_open(dispatch):
        return Again(POLL_S, because("resuming"))
    if dispatch.state in BROKEN_OFF and attempt + 1 < START_TRIES:
        run.keep(starts=attempt + 1)
        return Again(0, because("resuming"))
    if dispatch.state != DispatchState.SUCCEEDED:
        with run.holding():
            _not_started(instance, ended_with(dispatch), now=run.now)
    return Next()


def _not_started(instance: Instance, outcome: str, *, now: datetime) -> None:
    event_add(instance, "on_wake_failed", reason=because("on_wake_failed", outcome=outcome[:200]), now=now)


def exhausted(run: Run, reason: Reason) -> Outcome | None:
    """After the hand-over there is nothing to take back: what should have started on wake did not, and that is all."""
    box = boxes.box_live(subject(run))
    if box is None or box.handed_over_at is None:
        return None
    with run.holding():
        _not_started(box.instance, str(reason), now=run.now)
    return Next()


def ended(chain: Chain, state: ChainState, reason: Reason, *, now: datetime) -> None:
    """Awake with every byte in place, or asleep as before."""
    instance = instance_of(chain)
    boxes.worker_locked(instance)
    take_back(chain.pk, reason=reason, now=now)
    box = boxes.box_live(instance)
    if state == ChainState.SUCCEEDED or (box is not None and box.handed_over_at is not None):
        _awake(chain, instance, box, now)
        return
    if box is not None:
        boxes.box_abandon(box, reason=reason, now=now)
    if instance.state == InstanceState.WAKING:
        window = timedelta(minutes=policies.policy_resolved(instance).policy.delete_after_pause_minutes)
        advance(
            instance,
            InstanceState.HIBERNATED,
            reason=reason,
            by=str(reason.params.get("by", "")),
            now=now,
            restore_incomplete=False,
            hibernated_at=now,
            delete_due_at=now + window,
        )
    elif instance.state == InstanceState.PROVISIONING:
        advance(instance, InstanceState.DELETED, reason=reason, now=now)


def _awake(chain: Chain, instance: Instance, box: Box | None, now: datetime) -> None:
    generation = Snapshot.objects.filter(pk=chain.data.get("snapshot") or "").first()
    reason = because("first_start")
    if generation is not None:
        reason = because(
            "back_from_sleep",
            generation=generation.generation,
            files=generation.files,
            logical_bytes=generation.logical_bytes,
        )
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
    worker = boxes.worker_locked(instance)
    if worker is not None:
        taking.restore_forbid(worker_ref=worker.pk)
        workers.worker_undrain(worker)
        workers.worker_slots_set(worker, 1)


def _generation(run: Run) -> Snapshot:
    return Snapshot.objects.select_related("owner").get(pk=run.data["snapshot"])


STEPS = (
    Step("reserve", reserve, limit_minutes=30, leases=20),
    Step("rent", rent, limit_minutes=60),
    Step("boot", boot, limit_minutes=60),
    Step("restore", restore, limit_minutes=12 * 60),
    Step("resume", resume, limit_minutes=15),
)

WAKE = register(Definition(kind=KIND, steps=STEPS, ended=ended, exhausted=exhausted))
PROVISION = register(Definition(kind="provision", steps=STEPS, ended=ended, exhausted=exhausted))
