"""Looking at a job's checkpoint in the store: one that was just committed is verified, one that could not be restored is
read whole. The next attempt waits for the verdict."""

from __future__ import annotations

from datetime import datetime

from core.chain_states import ChainState
from core.chains import Definition, Next, Outcome, Run, Step, Stop, register
from core.models import Chain
from core.reasons import Reason, because
from core.transitions import event_add
from pool.models import Job
from pool.services.checkpoints import CHAIN, WHOLE, checkpoints_trim
from snapshots.models import Snapshot
from snapshots.services.verifying import snapshot_recheck, snapshot_verify
from snapshots.states import SnapshotState

VERIFY_SHARE = 0.02
"""Of the blocks of a new one that are read back. Every pack's length and hash are asked for in any case."""

DOUBT_SHARE = 1.0
"""Of one that an agent could not restore."""


def check(run: Run) -> Outcome:
    """The store is asked; a store that cannot be asked now is asked later, however long it takes."""
    snapshot = Snapshot.objects.select_related("owner").get(pk=run.chain.subject_id)
    if snapshot.state == SnapshotState.COMMITTED:
        whole = snapshot_verify(snapshot, share=VERIFY_SHARE, cancelled=run.overtaken.is_set)
    elif snapshot.state in WHOLE:
        whole = snapshot_recheck(snapshot, share=DOUBT_SHARE)
    else:
        return Stop(ChainState.ABORTED, because("checkpoint_over", state=snapshot.state))
    if whole:
        return Next()
    return Stop(ChainState.FAILED, because("checkpoint_not_whole", generation=snapshot.generation))


def ended(chain: Chain, state: ChainState, reason: Reason, *, now: datetime) -> None:
    """With a newer one verified, older ones are not needed."""
    snapshot = Snapshot.objects.get(pk=chain.subject_id)
    job = Job.objects.filter(pk=snapshot.workspace_ref).first()
    if state == ChainState.SUCCEEDED and job is not None:
        checkpoints_trim(job, now=now)


def alarmed(chain: Chain, reason: Reason) -> None:
    """A person learns that the store does not answer: attempts wait for it."""
    snapshot = Snapshot.objects.get(pk=chain.subject_id)
    event_add(snapshot, "checkpoint_unchecked", reason=reason)


CHECKPOINT = register(
    Definition(
        kind=CHAIN,
        steps=(Step("check", check, limit_minutes=None, attempts=None, leases=100),),
        ended=ended,
        alarmed=alarmed,
    )
)
