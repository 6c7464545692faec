"""What happens to a job when one of its attempts starts or ends."""

from __future__ import annotations

import logging
from datetime import datetime

from core.errors import TransitionRefused
from core.reasons import Reason, because
from core.transitions import advance
from pool.models import Dispatch, Job
from pool.services.bell import dispatcher_ring
from pool.services.checkpoints import attempt_closed, attempts_fruitless
from pool.states import DispatchState, JobState

log = logging.getLogger(__name__)


def attempt_started(dispatch: Dispatch, *, now: datetime) -> bool:
    """Its worker has claimed it. False where the job has moved on, so that this attempt is nobody's any more."""
    job = dispatch.job
    if job.attempt != dispatch.number:
        return False
    reason = because("job_claimed", worker=dispatch.worker.name)
    try:
        advance(job, JobState.RUNNING, reason=reason, now=now, started_at=job.started_at or now)
    except TransitionRefused:
        return False
    return True


def attempt_ended(dispatch: Dispatch, *, now: datetime) -> None:
    """Move the job on by the final state of its dispatch. An attempt that is not the job's present one changes nothing.

    Call it in the transaction that ended the dispatch. A slot is free now, so that the dispatcher is rung.
    """
    dispatcher_ring()
    attempt_closed(dispatch, now=now)
    job = _job_of(dispatch, JobState.DISPATCHED, JobState.RUNNING)
    if job is None:
        log.info("dispatch=%s ended as %s, its job has moved on", dispatch.pk, dispatch.state)
        return
    if dispatch.state == DispatchState.SUCCEEDED and not dispatch.exit_code:
        advance(job, JobState.SUCCEEDED, reason=because("job_done"), now=now, exit_code=0, ended_at=now)
    elif dispatch.state in (DispatchState.SUCCEEDED, DispatchState.FAILED):
        advance(
            job,
            JobState.FAILED,
            reason=_failure(dispatch),
            now=now,
            exit_code=dispatch.exit_code,
            ended_at=now,
        )
    elif job.cancel_requested_at is not None:
        reason = because("job_cancelled", by=job.cancel_requested_by or "its owner")
        advance(job, JobState.CANCELLED, reason=reason, now=now, exit_code=dispatch.exit_code, ended_at=now)
    else:
        _requeue(job, dispatch, now=now)


def _requeue(job: Job, dispatch: Dispatch, *, now: datetime) -> None:
    why = dispatch.reason
    # Only attempts that a worker had begun use the job's attempts up: a bell that nobody answered costs nothing.
    begun = attempts_fruitless(job)
    if dispatch.claimed_at is not None and begun >= job.max_attempts:
        reason = because("job_attempts_used_up", attempts=begun, why=why)
        advance(job, JobState.FAILED, reason=reason, now=now, ended_at=now)
        return
    reason = because("job_requeued", attempt=dispatch.number, why=why)
    advance(job, JobState.QUEUED, reason=reason, now=now)


def _failure(dispatch: Dispatch) -> Reason:
    if dispatch.exit_code is not None:
        return because("job_exit_code", exit_code=dispatch.exit_code)
    return because(
        "job_failed_on_worker",
        worker=dispatch.worker.name,
        error=str(dispatch.reason_params.get("error") or "it gave no reason"),
    )


def _job_of(dispatch: Dispatch, *states: JobState) -> Job | None:
    if dispatch.job_id is None:
        return None
    return (
        Job.objects.select_for_update()
        .filter(pk=dispatch.job_id, attempt=dispatch.number, state__in=states)
        .first()
    )
