"""What agents do with their dispatches over HTTPS: claim, report progress and output, finish.

Each report carries the fence that the claim handed out. A dispatch of another worker does not exist for this one
(404); one of another epoch, fence or state is not its any more (stand down), and nothing is written.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from agent import wire
from core.agents import AgentIdentity
from core.errors import DomainError, Invalid, NotFound, StandDown, TransitionRefused
from core.reasons import Reason, because
from core.text import storable
from core.transitions import advance
from pool import signals
from pool.log_cap import Extent, capped
from pool.models import Dispatch, JobObject, LogChunk, Worker
from pool.services.attempts import attempt_started, attempt_waits
from pool.services.dispatches import dispatch_end, dispatch_locked, lease_s
from pool.services.specs import job_work
from pool.services.workers import worker_drains
from pool.states import DispatchState

log = logging.getLogger(__name__)

REASON_LIMIT = 500
"""Characters of what an agent says went wrong."""


class Draining(DomainError):
    """The worker does not take this kind now; the dispatch stays unclaimed."""

    code = "draining"


def dispatch_claim(
    *,
    identity: AgentIdentity,
    dispatch_id: str,
    kinds: Sequence[str] | None = None,
    now: datetime | None = None,
) -> wire.Claimed:
    """Hand the work over, with a fence and a lease. The same worker and epoch may claim again and gets the same fence.

    kinds: what the worker takes now, None for everything. Raises NotFound, StandDown, Draining.
    """
    now = now or timezone.now()
    with transaction.atomic():
        row = _own(identity, dispatch_id)
        life_s = lease_s(row.worker.check_interval_s)
        until = now + timedelta(seconds=life_s)
        if row.state == DispatchState.CLAIMED:
            Dispatch.objects.filter(pk=row.pk).update(lease_until=until)
        elif row.state != DispatchState.RUNG:
            raise _over(row)
        elif kinds is not None and row.kind not in kinds:
            raise Draining(
                f"{row.kind} is not what this worker takes now", hint="leave it; it is given elsewhere"
            )
        else:
            _begin(row, until=until, now=now)
        work = job_work(row) if row.kind == Dispatch.Kind.JOB else row.work
    return wire.Claimed(dispatch_id=row.pk, kind=row.kind, fence=row.fence, lease_s=life_s, work=work)


def dispatch_progress(
    *, identity: AgentIdentity, dispatch_id: str, post: wire.ProgressPost, now: datetime | None = None
) -> dict[str, bool]:
    """Store how far it is and renew the lease. The answer says whether to stop: {"cancel": bool}."""
    now = now or timezone.now()
    progress = {name: value for name, value in storable(wire.to_json(post)).items() if name != "fence"}
    with transaction.atomic():
        row = dispatch_held(identity, dispatch_id, fence=post.fence)
        Dispatch.objects.filter(pk=row.pk).update(progress=progress, progress_at=now, **_lease(row, now))
        if row.kind == Dispatch.Kind.JOB:
            attempt_waits(row, store_away=post.phase == wire.STORE_AWAY)
    return {"cancel": row.cancel_requested_at is not None}


def dispatch_log(
    *, identity: AgentIdentity, dispatch_id: str, post: wire.LogPost, now: datetime | None = None
) -> int:
    """Append output and renew the lease; returns where the stream is to go on.

    Bytes that are stored already are ignored; a post beyond the end adds nothing. Of more than settings.JOB_LOG_BYTES the
    middle is cut out (pool.log_cap), and where so much is waiting the answer is behind it.
    """
    now = now or timezone.now()
    try:
        raw = wire.LogPost.raw(post.data)
    except wire.WireError as error:
        raise Invalid(str(error), hint="send wire.LogPost") from error
    if len(raw) > wire.LOG_CHUNK_LIMIT_BYTES:
        raise Invalid(
            f"a log post holds at most {wire.LOG_CHUNK_LIMIT_BYTES} bytes", hint="send smaller pieces"
        )
    with transaction.atomic():
        row = dispatch_held(identity, dispatch_id, fence=post.fence)
        end = row.log_bytes
        fresh = raw[end - post.offset :] if post.offset <= end else b""
        if fresh:
            LogChunk.objects.create(dispatch=row, offset=end, data=fresh)
            end += len(fresh)
        before = Extent(end=end, cut_from=row.log_cut_from, cut_to=row.log_cut_to)
        after = capped(before, total=post.total or 0, cap=settings.JOB_LOG_BYTES)
        if after.cut_to != before.cut_to:
            _cut_out(row, after)
        Dispatch.objects.filter(pk=row.pk).update(
            log_bytes=after.end, log_cut_from=after.cut_from, log_cut_to=after.cut_to, **_lease(row, now)
        )
    return after.end


def _cut_out(row: Dispatch, extent: Extent) -> None:
    """Remove what lies whole within what is cut out; what only reaches into it stays, and is not shown."""
    last = row.chunks.filter(offset__lte=extent.cut_to).order_by("-offset").values_list("offset", flat=True)
    row.chunks.filter(offset__gte=extent.cut_from, offset__lt=last.first() or 0).delete()
    parts = row.log_parts.filter(offset__gte=extent.cut_from, offset__lte=extent.cut_to - F("length"))
    JobObject.objects.filter(key__in=list(parts.values_list("key", flat=True))).update(doomed=True)
    parts.delete()


def dispatch_finish(
    *, identity: AgentIdentity, dispatch_id: str, post: wire.FinishPost, now: datetime | None = None
) -> None:
    """Accept the one result of a dispatch. The very same report again (a lost answer) is accepted and changes nothing.

    One that comes too late is kept with that attempt, to be looked at, and moves nothing. Raises NotFound, StandDown,
    Invalid for an outcome that is not one.
    """
    now = now or timezone.now()
    if post.outcome not in wire.OUTCOMES:
        raise Invalid(f"outcome {post.outcome!r} is not one of {', '.join(wire.OUTCOMES)}")
    state = DispatchState(post.outcome)
    if state == DispatchState.INTERRUPTED and post.result.get(wire.WORKER_ENDS) is True:
        _worker_ends(identity, now=now)
    with transaction.atomic():
        row = _own(identity, dispatch_id)
        if row.fence == post.fence and row.state == state:
            return
        if row.state == DispatchState.CLAIMED and row.fence == post.fence:
            dispatch_end(
                row,
                state,
                reason=_outcome_reason(post),
                now=now,
                finished_at=now,
                lease_until=None,
                exit_code=post.exit_code,
                result=storable(dict(post.result)),
            )
            return
        _keep_late(row, post, now=now)
    raise _over(row)


def _worker_ends(identity: AgentIdentity, *, now: datetime) -> None:
    """Before its job is queued again, so that it is not the first to be chosen. In a transaction of its own: everybody
    else who holds a worker's row and a dispatch's has taken the worker's first."""
    worker = Worker.objects.filter(pk=identity.worker_id, epoch=identity.epoch).first()
    try:
        if worker is not None:
            worker_drains(worker, draining=True, now=now)
    except TransitionRefused as refused:
        log.info("worker=%s moved meanwhile: %s", identity.worker_id, refused)


def _keep_late(row: Dispatch, post: wire.FinishPost, *, now: datetime) -> None:
    """What the attempt came to after it was over: only its own words, only once, and of no consequence."""
    if row.fence != post.fence or row.claimed_at is None:
        return
    late = {
        "at": now.isoformat(),
        "outcome": post.outcome,
        "exit_code": post.exit_code,
        "reason": (post.reason or "")[:REASON_LIMIT],
        "output_tail": (post.output_tail or "")[-wire.OUTPUT_TAIL_BYTES :],
        "output_bytes": post.output_bytes,
    }
    if Dispatch.objects.filter(pk=row.pk, late={}).update(late=storable(late)):
        log.info("dispatch=%s late report kept outcome=%s exit_code=%s", row.pk, post.outcome, post.exit_code)


def _begin(row: Dispatch, *, until: datetime, now: datetime) -> None:
    advance(
        row,
        DispatchState.CLAIMED,
        reason=because("dispatch_claimed"),
        now=now,
        fence=row.fence + 1,
        lease_until=until,
        claimed_at=now,
    )
    if row.kind == Dispatch.Kind.JOB and not attempt_started(row, now=now):
        # Only a fault of ours gets here: whoever moves a job on withdraws its dispatch with it.
        raise StandDown(f"dispatch {row.pk} is of an attempt that is over")
    signals.dispatch_claimed.send(sender=Dispatch, dispatch=row, now=now)


def _own(identity: AgentIdentity, dispatch_id: str) -> Dispatch:
    row = dispatch_locked(dispatch_id)
    if row is None or row.worker_id != identity.worker_id:
        raise NotFound(f"there is no dispatch {dispatch_id} for this worker")
    if row.epoch != identity.epoch:
        raise StandDown(f"dispatch {row.pk} is of epoch {row.epoch}, this is epoch {identity.epoch}")
    return row


def dispatch_held(identity: AgentIdentity, dispatch_id: str, *, fence: int) -> Dispatch:
    """The dispatch that this agent holds with that fence, locked. Raises NotFound, StandDown. Call it in a transaction."""
    return _still_held(_own(identity, dispatch_id), fence=fence)


def _still_held(row: Dispatch, *, fence: int) -> Dispatch:
    if row.state != DispatchState.CLAIMED or row.fence != fence:
        raise _over(row)
    return row


def _over(row: Dispatch) -> StandDown:
    return StandDown(
        f"dispatch {row.pk} is {row.state} (fence {row.fence})", hint="stop this work and change nothing"
    )


def _lease(row: Dispatch, now: datetime) -> dict[str, Any]:
    return {"lease_until": now + timedelta(seconds=lease_s(row.worker.check_interval_s))}


def _outcome_reason(post: wire.FinishPost) -> Reason:
    error = storable(post.reason or "no reason given")[:REASON_LIMIT]
    match post.outcome:
        case "succeeded":
            return because("dispatch_done")
        case "failed" if post.timed_out_s is not None:
            return because("dispatch_timed_out", limit_s=storable(post.timed_out_s) or 0.0)
        case "failed":
            return because("dispatch_failed", error=error)
        case "cancelled":
            return because("dispatch_cancelled")
        case _:
            return because("dispatch_interrupted", error=error)
