"""Putting an instance to sleep: drain, snapshot, verify, recheck, destroy, confirm.

Until `destroy` nothing has been touched and everything can be taken back. `destroy` begins only where the box's row
holds a verified generation of its own epoch, which the database checks. From then on there is only forward.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q, QuerySet
from pool.services.dispatches import dispatch_withdraw

from core.chain_states import ChainState
from core.chains import Again, Definition, Next, Outcome, Run, Step, Stop, register
from core.errors import TransitionRefused
from core.models import Chain
from core.reasons import Reason, because
from core.transitions import advance, event_add
from hibernation.chains.subject import instance_of, subject
from hibernation.chains.work import BROKEN_OFF, POLL_S, ask, ended_with, is_open
from hibernation.models import Box, Instance
from hibernation.services import boxes, policies
from hibernation.services.hibernate import KIND, back_to_running
from hibernation.states import InstanceState
from pool import selectors as pool_selectors
from pool.models import Dispatch, Sample
from pool.services import workers
from pool.states import LISTENING
from snapshots.models import Snapshot
from snapshots.services import taking, verifying
from snapshots.states import SnapshotState

SNAPSHOT_TRIES = 3


def drain(run: Run) -> Outcome:
    """No new work, and an agent that answers. A job that runs, or waits, for this instance stops the hibernation."""
    instance = subject(run)
    blocked = _job_reason(instance)
    if blocked is not None:
        return Stop(ChainState.ABORTED, blocked)
    assert instance.worker is not None
    workers.worker_drain(instance.worker, reason=because("draining"), by=run.chain.by)
    if instance.worker.state not in LISTENING:
        return Again(POLL_S, because("draining"))
    return Next()


def snapshot(run: Run) -> Outcome:
    """Ask the agent for the next generation and wait for it. What breaks off is asked for again, a few times."""
    instance = subject(run)
    attempt = int(run.data.get("snapshot_attempt", 0))
    assert instance.worker is not None
    generation = taking.snapshot_begin(
        owner=instance.owner,
        instance_ref=instance.pk,
        epoch=instance.epoch,
        worker_ref=instance.worker.pk,
        worker_epoch=instance.epoch,
        key=f"{run.chain.pk}:{attempt}",
    )
    dispatch = ask(
        run,
        instance,
        kind=Dispatch.Kind.SNAPSHOT,
        ref=generation.pk,
        work={"snapshot_id": generation.pk},
        attempt=attempt,
    )
    run.keep(snapshot=generation.pk, dispatch=dispatch.pk)
    if is_open(dispatch):
        return Again(POLL_S, because("taking", generation=generation.generation))
    generation.refresh_from_db()
    if generation.state in (SnapshotState.COMMITTED, SnapshotState.VERIFIED):
        return Next()
    error = ended_with(dispatch)
    taking.snapshot_fail(generation, error=error)
    if dispatch.state in BROKEN_OFF and attempt + 1 < SNAPSHOT_TRIES:
        run.keep(snapshot_attempt=attempt + 1)
        return Again(0, because("taking", generation=generation.generation))
    return Stop(ChainState.ABORTED, because("snapshot_refused", error=error[:300]))


def verify(run: Run) -> Outcome:
    """See with our own eyes that the generation can be restored."""
    generation = Snapshot.objects.select_related("owner").get(pk=run.data["snapshot"])
    policy, _ = policies.policy_resolved(subject(run))
    if verifying.snapshot_verify(generation, share=policy.verify_share):
        return Next()
    return Stop(ChainState.ABORTED, because("not_verified", generation=generation.generation))


def recheck(run: Run) -> Outcome:
    """Nothing may have happened since the snapshot began: no job, no hold, no busy GPU, and no silence either."""
    instance = subject(run)
    generation = Snapshot.objects.get(pk=run.data["snapshot"])
    active = _job_reason(instance) or _hold_reason(instance, run.now)
    if active is None and not run.data.get("asked"):
        policy, _ = policies.policy_resolved(instance)
        active = activity_since(instance, generation.started_at, threshold=policy.gpu_usage_threshold)
    if active is not None:
        return Stop(ChainState.ABORTED, active)
    committed_at = generation.committed_at or run.now
    if not run.data.get("asked") and not _samples(instance).filter(at__gt=committed_at).exists():
        silent = run.now - run.chain.step_since
        if silent > timedelta(minutes=5):
            minutes = silent.total_seconds() / 60
            return Stop(ChainState.ABORTED, because("no_reading_since_snapshot", minutes=round(minutes, 1)))
        return Again(1, because("waiting_for_reading"))
    return Next()


def destroy(run: Run) -> Outcome:
    """The point of no return: the row says that the box must go and why it may, then the provider is asked."""
    instance = subject(run)
    generation = Snapshot.objects.get(pk=run.data["snapshot"])
    box = box_of(run, instance)
    with transaction.atomic():
        boxes.box_let_go(box, generation, now=run.now)
        Instance.objects.filter(pk=instance.pk).update(snapshot=generation)
        boxes.worker_stands_down(
            instance, reason=because("box_saved", generation=generation.generation), now=run.now
        )
    if box.provider_ref:
        boxes.provider_of(box.account).destroy(box.provider_ref)
    return Next()


def confirm(run: Run) -> Outcome:
    """Ask and look until the provider shows, twice, that the box is gone. Never gives up."""
    box = box_of(run, subject(run))
    facts = boxes.box_pursue(box, boxes.provider_of(box.account), now=run.now)
    if facts is None:
        return Next()
    times = int(run.data.get("asked_to_go", 0)) + 1
    run.keep(asked_to_go=times)
    wait_s = boxes.SEEN_TWICE_S if box.absent_since is not None else min(60.0, 2.0 * times)
    return Again(wait_s, because("box_going", phase=str(facts.phase)))


def ended(chain: Chain, state: ChainState, reason: Reason, *, now: datetime) -> None:
    """Asleep, or awake as if nothing had been."""
    instance = instance_of(chain)
    if state == ChainState.SUCCEEDED:
        _asleep(chain, instance, now)
        return
    generation = Snapshot.objects.filter(pk=chain.data.get("snapshot", "")).first()
    if generation is not None:
        taking.snapshot_fail(generation, error=str(reason), now=now)
    open_dispatch = Dispatch.objects.filter(pk=chain.data.get("dispatch", "")).first()
    if open_dispatch is not None and is_open(open_dispatch):
        dispatch_withdraw(open_dispatch, reason=reason, now=now)
    back_to_running(instance, why=str(reason), now=now)


def _asleep(chain: Chain, instance: Instance, now: datetime) -> None:
    generation = Snapshot.objects.get(pk=chain.data["snapshot"])
    box = Box.objects.get(pk=chain.data["box"])
    policy, _ = policies.policy_resolved(instance)
    advance(
        instance,
        InstanceState.HIBERNATED,
        reason=because("saved_and_gone", generation=generation.generation, box=box.provider_ref),
        now=now,
        snapshot_id=generation.pk,
        hibernated_at=now,
        delete_due_at=now + timedelta(minutes=policy.delete_after_pause_minutes),
        idle_since=None,
        idle_due_at=None,
        keep_awake_until=None,
        gpu_util=None,
        data={"box": box.pk, "price_usd_per_h": str(box.price_usd_per_h)},
    )


def activity_since(instance: Instance, since: datetime, *, threshold: float) -> Reason | None:
    """The first reading after `since` that is not idle, worded; None where every reading is idle. Unknown is active."""
    busy = (
        _samples(instance)
        .filter(Q(gpu_util__gte=threshold) | Q(gpu_util__isnull=True), at__gt=since)
        .order_by("at")
        .first()
    )
    if busy is None:
        return None
    at = busy.at.isoformat(timespec="seconds")
    if busy.gpu_util is None:
        return because("unknown_since_snapshot", at=at)
    return because("active_since_snapshot", util=busy.gpu_util, at=at)


def _samples(instance: Instance) -> QuerySet[Sample]:
    return Sample.objects.filter(worker_id=instance.worker_id, epoch=instance.epoch)


def _job_reason(instance: Instance) -> Reason | None:
    assert instance.worker is not None
    running = pool_selectors.dispatches_open(instance.worker, kinds=(Dispatch.Kind.JOB,)).first()
    if running is not None:
        return because("job_on_it", job=running.job_id or running.pk)
    waiting = pool_selectors.jobs_waiting_for_instances().filter(instance_ref=instance.pk).first()
    return because("job_waits_for_it", job=waiting.pk) if waiting is not None else None


def _hold_reason(instance: Instance, now: datetime) -> Reason | None:
    until = instance.keep_awake_until
    if until is None or until <= now:
        return None
    return because("kept_awake", until=until.isoformat(timespec="seconds"))


def box_of(run: Run, instance: Instance) -> Box:
    """The chain's box: the live one the first time, and that very one ever after."""
    if "box" in run.data:
        return Box.objects.select_related("account", "instance").get(pk=run.data["box"])
    box = boxes.box_live(instance)
    if box is None:
        raise TransitionRefused(f"instance {instance.pk} has no live box to let go")
    run.keep(box=box.pk)
    return box


def exhausted(run: Run, reason: Reason) -> Outcome | None:
    """Up to the recheck whatever fails is taken back: the box was not touched."""
    return Stop(ChainState.ABORTED, reason)


def alarmed(chain: Chain, reason: Reason) -> None:
    """A box that will not go: an event with the running cost, about every ten minutes."""
    box = Box.objects.filter(pk=chain.data.get("box", "")).first()
    if box is None:
        return
    event_add(
        box,
        "box_still_there",
        reason=because(
            "box_still_there",
            times=int(chain.data.get("asked_to_go", 0)),
            since=(box.destroy_asked_at or chain.step_since).isoformat(timespec="seconds"),
            phase=str(reason)[:100],
            price=float(box.price_usd_per_h),
        ),
    )


HIBERNATE = register(
    Definition(
        kind=KIND,
        steps=(
            Step("drain", drain, limit_minutes=10),
            Step("snapshot", snapshot, limit_minutes=12 * 60),
            Step("verify", verify, limit_minutes=120, leases=5),
            Step("recheck", recheck, limit_minutes=10),
            Step("destroy", destroy, limit_minutes=None, attempts=None),
            Step("confirm", confirm, limit_minutes=None, attempts=None),
        ),
        ended=ended,
        exhausted=exhausted,
        alarmed=alarmed,
    )
)
