"""Putting an instance to sleep: drain, snapshot, verify, recheck, destroy, confirm.

The box's row is the point of no return. Until `destroy` marks it, nothing has been touched and everything can be taken
back; it can be marked only on the strength of a verified generation of its own epoch, which the database checks too.
From then on there is only forward.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.utils import timezone

from core.chain_states import ChainState
from core.chains import Again, Definition, Goto, Next, Outcome, Run, Step, Stop, register
from core.errors import TransitionRefused
from core.models import Chain
from core.reasons import Reason, because
from core.transitions import advance, event_add
from hibernation.chains.quiet import LOOK_AGAIN_S, reading_missing, stirring
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
from hibernation.services import boxes, policies, pursuit, saved
from hibernation.services.hibernate import KIND, back_to_running, untouched
from hibernation.services.obstacles import obstacle
from hibernation.states import LIVE, BoxState, InstanceState
from pool.models import Dispatch
from pool.services import workers
from pool.states import LISTENING
from snapshots.models import Snapshot
from snapshots.services import taking, verifying
from snapshots.states import SnapshotState

SNAPSHOT_TRIES = 3
READING_PATIENCE = timedelta(minutes=5)
"""How long the recheck waits for a reading, at least: an agent that posts seldom is waited for longer. Silence is never
idleness."""


def drain(run: Run) -> Outcome:
    """No new work, and an agent that answers. A job that runs, or waits, for this instance stops the hibernation."""
    instance = subject(run)
    in_the_way = obstacle(instance, now=run.now)
    if in_the_way is not None:
        return Stop(ChainState.ABORTED, in_the_way)
    with run.holding():
        worker = boxes.worker_locked(instance)
        assert worker is not None, "an instance with a chain has a worker"
        workers.worker_drain(worker, reason=because("draining"), by=run.chain.by, now=run.now)
    if worker.state in LISTENING:
        return Next()
    return _without_agent(run, agent_silent(run, instance) or timedelta(0))


def snapshot(run: Run) -> Outcome:
    """Ask the agent for the next generation and wait for it. What breaks off is asked for again, a few times."""
    instance = subject(run)
    attempt = int(run.data.get("snapshot_attempt", 0))
    silent = agent_silent(run, instance)
    if silent is not None:
        return _without_agent(run, silent)
    with run.holding():
        generation, dispatch = _asked(run, instance, attempt)
    if generation.state in taking.COMMITTED:
        return Next()
    if is_open(dispatch):
        return Again(POLL_S, because("taking", generation=generation.generation))
    error = ended_with(dispatch)
    with run.holding():
        generation.refresh_from_db()
        if generation.state in taking.COMMITTED:
            return Next()
        taking.snapshot_fail(generation, error=error, now=run.now)
        run.keep(snapshot_attempt=attempt + 1)
    if dispatch.state in BROKEN_OFF and attempt + 1 < SNAPSHOT_TRIES:
        return Again(0, because("taking", generation=generation.generation))
    return Stop(ChainState.ABORTED, because("snapshot_refused", error=error[:300]))


def _asked(run: Run, instance: Instance, attempt: int) -> tuple[Snapshot, Dispatch]:
    """The generation of this attempt and the work that takes it: begun the first time, found every time after that."""
    assert instance.worker is not None, "an instance with a chain has a worker"
    generation = taking.snapshot_begin(
        owner=instance.owner,
        workspace_ref=instance.pk,
        epoch=instance.epoch,
        worker_ref=instance.worker.pk,
        worker_epoch=instance.epoch,
        key=f"{run.chain.pk}:{attempt}",
        now=run.now,
    )
    dispatch = ask(
        run,
        instance,
        kind=Dispatch.Kind.SNAPSHOT,
        ref=generation.pk,
        work={"snapshot_id": generation.pk},
        attempt=attempt,
    )
    if run.data.get("snapshot") != generation.pk:
        run.keep(snapshot=generation.pk)
    return generation, dispatch


def verify(run: Run) -> Outcome:
    """See with our own eyes that the generation can be restored."""
    generation, instance = _generation(run), subject(run)
    share = policies.policy_resolved(instance).policy.verify_share
    if verifying.snapshot_verify(generation, share=share, cancelled=run.overtaken.is_set):
        with run.holding():
            saved.saved_tell(instance, generation)
        return Next()
    return Stop(ChainState.ABORTED, because("not_verified", generation=generation.generation))


def recheck(run: Run) -> Outcome:
    """Nothing may have happened since the snapshot began: no job, no hold, no activity, and no silence either."""
    instance, generation = subject(run), _generation(run)
    moved = _stirred(run, instance, generation, now=run.now)
    if moved is not None:
        return Stop(ChainState.ABORTED, moved)
    if run.data.get("asked") or not reading_missing(instance, generation, now=run.now):
        return Next()
    # The reading that counts may be the second after the commit: the first is partly a mean over the upload.
    patience = max(READING_PATIENCE, 2 * policies.policy_resolved(instance).policy.silence)
    if run.step_age > patience:
        minutes = round(run.step_age.total_seconds() / 60, 1)
        return Stop(ChainState.ABORTED, because("no_reading_since_snapshot", minutes=minutes))
    return Again(LOOK_AGAIN_S, because("waiting_for_reading"))


def destroy(run: Run) -> Outcome:
    """The point of no return: the row says that the box must go and why it may, then the provider is asked."""
    instance, generation = subject(run), _generation(run)
    box = box_of(run, instance)
    if box.state in LIVE:
        try:
            with run.holding():
                # By the clock of this moment: whoever has stood still since its claim knows only what was then.
                now = timezone.now()
                back = _last_look(run, instance, generation, now=now)
                if back is not None:
                    return back
                let_go(instance, box, generation, now=now)
        except TransitionRefused as refused:
            return Stop(ChainState.ABORTED, because("not_let_go", error=refused.message[:300]))
    if box.state == BoxState.DESTROYING and box.provider_ref:
        boxes.provider_of(box.account).destroy(box.provider_ref)
    return Next()


def let_go(instance: Instance, box: Box, generation: Snapshot, *, now: datetime) -> None:
    """One transaction: the agent's identity ends, the generation is the instance's, the box must go."""
    boxes.worker_stands_down(instance, reason=because("box_saved", generation=generation.generation), now=now)
    Instance.objects.filter(pk=instance.pk).update(snapshot=generation)
    boxes.box_let_go(box, generation, now=now)


def confirm(run: Run) -> Outcome:
    """Ask and look until the provider shows, twice, that the box is gone. Never gives up."""
    box = box_of(run, subject(run))
    facts = pursuit.box_pursue(box, boxes.provider_of(box.account), now=run.now)
    if facts is None:
        return Next()
    times = int(run.data.get("asked_to_go", 0)) + 1
    run.keep(asked_to_go=times)
    wait_s = pursuit.SEEN_TWICE_S if box.absent_since is not None else min(60.0, 2.0 * times)
    return Again(wait_s, because("box_going", phase=str(facts.phase)))


def ended(chain: Chain, state: ChainState, reason: Reason, *, now: datetime) -> None:
    """Asleep, or awake as if nothing had been."""
    instance = instance_of(chain)
    if state == ChainState.SUCCEEDED:
        _asleep(chain, instance, now)
        return
    boxes.worker_locked(instance)
    take_back(chain.pk, reason=reason, now=now)
    begun = Snapshot.objects.filter(
        key__startswith=f"{chain.pk}:", state__in=(SnapshotState.TAKING, SnapshotState.COMMITTED)
    )
    for generation in begun:
        taking.snapshot_fail(generation, error=str(reason), now=now)
    back_to_running(instance, reason=reason, now=now)


def _asleep(chain: Chain, instance: Instance, now: datetime) -> None:
    generation = Snapshot.objects.get(pk=chain.data["snapshot"])
    box = Box.objects.get(pk=chain.data["box"])
    window = timedelta(minutes=policies.policy_resolved(instance).policy.delete_after_pause_minutes)
    advance(
        instance,
        InstanceState.HIBERNATED,
        reason=because("saved_and_gone", generation=generation.generation, box=box.provider_ref),
        now=now,
        snapshot_id=generation.pk,
        hibernated_at=now,
        delete_due_at=now + window,
        idle_since=None,
        idle_due_at=None,
        keep_awake_until=None,
        gpu_util=None,
        data={"box": box.pk, "price_usd_per_h": str(box.price_usd_per_h)},
    )


def _stirred(run: Run, instance: Instance, generation: Snapshot, *, now: datetime) -> Reason | None:
    """What has happened on it since the snapshot began, if anything has. A person who asked is not held up by a busy GPU."""
    in_the_way = obstacle(instance, now=now)
    if in_the_way is not None or run.data.get("asked"):
        return in_the_way
    return stirring(instance, generation)


def _last_look(run: Run, instance: Instance, generation: Snapshot, *, now: datetime) -> Outcome | None:
    """The recheck may be long ago by now, if every worker was away: look once more at the very moment of letting go."""
    moved = _stirred(run, instance, generation, now=now)
    if moved is not None:
        return Stop(ChainState.ABORTED, moved)
    if not run.data.get("asked") and reading_missing(instance, generation, now=now):
        return Goto("recheck", because("waiting_for_reading"))
    return None


def _without_agent(run: Run, silent: timedelta) -> Outcome:
    """It may have committed before it went silent. Otherwise it is waited for, and then the box is left alone."""
    if Snapshot.objects.filter(pk=run.data.get("snapshot", ""), state__in=taking.COMMITTED).exists():
        return Next()
    if silent < SILENCE:
        return Again(POLL_S, because("agent_away"))
    minutes = round(silent.total_seconds() / 60, 1)
    return Stop(ChainState.ABORTED, because("agent_silent", minutes=minutes))


def _generation(run: Run) -> Snapshot:
    return Snapshot.objects.select_related("owner").get(pk=run.data["snapshot"])


def box_of(run: Run, instance: Instance) -> Box:
    """The chain's box: the one of the instance's epoch, which does not change while it falls asleep."""
    box = Box.objects.select_related("account", "instance__worker").get(
        instance=instance, epoch=instance.epoch
    )
    if run.data.get("box") != box.pk:
        run.keep(box=box.pk)
    return box


def exhausted(run: Run, reason: Reason) -> Outcome | None:
    """Up to the recheck whatever fails is taken back: the box was not touched."""
    return Stop(ChainState.ABORTED, reason)


def alarmed(chain: Chain, reason: Reason) -> None:
    """A box that will not go: an event with the running cost."""
    box = Box.objects.select_related("instance").filter(pk=chain.data.get("box", "")).first()
    if box is None:
        return
    event_add(
        box,
        "box_still_there",
        reason=because(
            "box_still_there",
            times=int(chain.data.get("asked_to_go", 0)),
            since=(box.destroy_asked_at or chain.step_since).isoformat(timespec="seconds"),
            why=str(reason)[:200],
            price=float(box.price_usd_per_h),
        ),
    )


HIBERNATE = register(
    Definition(
        kind=KIND,
        steps=(
            Step("drain", drain, limit_minutes=15),
            Step("snapshot", snapshot, limit_minutes=12 * 60),
            Step("verify", verify, limit_minutes=120, leases=100),
            Step("recheck", recheck, limit_minutes=30),
            Step("destroy", destroy, limit_minutes=None, attempts=None),
            Step("confirm", confirm, limit_minutes=None, attempts=None),
        ),
        ended=ended,
        exhausted=exhausted,
        alarmed=alarmed,
        stoppable=untouched,
    )
)
