"""What happens to a job when one of its attempts starts or ends."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from core.errors import TransitionRefused
from core.reasons import Reason, because
from core.transitions import advance
from pool.models import Dispatch, Job
from pool.retry import Retry
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


def attempt_waits(dispatch: Dispatch, *, store_away: bool) -> None:
    """Say on the running job whether its files wait for the store."""
    away, goes_on = because("job_store_away"), because("job_claimed", worker=dispatch.worker.name)
    old, new = (goes_on, away) if store_away else (away, goes_on)
    job = Job.objects.filter(pk=dispatch.job_id, attempt=dispatch.number, state=JobState.RUNNING)
    job.filter(reason_code=old.code).update(**Job.reason_columns(new))


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
        advance(job, JobState.SUCCEEDED, reason=_success(dispatch), now=now, exit_code=0, ended_at=now)
    elif dispatch.state in (DispatchState.SUCCEEDED, DispatchState.FAILED):
        _failed(job, dispatch, now=now)
    elif job.cancel_requested_at is not None:
        reason = because("job_cancelled", by=job.cancel_requested_by or "its owner")
        advance(job, JobState.CANCELLED, reason=reason, now=now, exit_code=dispatch.exit_code, ended_at=now)
    else:
        _requeue(job, dispatch, now=now)


def _failed(job: Job, dispatch: Dispatch, *, now: datetime) -> None:
    why = _failure(dispatch)
    retry = Retry.stored(job.retry) if job.retry is not None else None
    if (
        retry is not None
        and why.code == "job_exit_code"
        and job.cancel_requested_at is None
        and retry.wants(dispatch.exit_code, retries=job.retries)
    ):
        at = now + timedelta(seconds=retry.wait_s(retries=job.retries))
        number = job.retries + 1
        reason = because(
            "job_retry",
            exit_code=dispatch.exit_code,
            number=number,
            most=retry.max_retries,
            at=f"{at:%Y-%m-%d %H:%M:%S} UTC",
        )
        advance(job, JobState.DEFERRED, reason=reason, now=now, not_before=at, retries=number)
        return
    reason = _with_left_out(why, dispatch)
    advance(job, JobState.FAILED, reason=reason, now=now, exit_code=dispatch.exit_code, ended_at=now)


def _requeue(job: Job, dispatch: Dispatch, *, now: datetime) -> None:
    why = dispatch.reason
    # Only attempts that a worker had begun use the job's attempts up: a bell that nobody answered costs nothing. Those
    # that ended by themselves are counted by its retries.
    begun = attempts_fruitless(job)
    if dispatch.claimed_at is not None and begun >= job.max_attempts:
        reason = because("job_attempts_used_up", attempts=begun, why=why)
        advance(job, JobState.FAILED, reason=reason, now=now, ended_at=now)
        return
    reason = because("job_requeued", attempt=dispatch.number, why=why)
    advance(job, JobState.QUEUED, reason=reason, now=now)


def left_out(dispatch: Dispatch) -> tuple[int, list[dict[str, str]]]:
    """How many of the files that its globs mean were not kept, and some of them with the reason, as its agent says."""
    said = dispatch.result.get("artifacts")
    said = said if isinstance(said, dict) else {}
    rows = said.get("left_out")
    shown = [
        {"path": str(row.get("path", ""))[:400], "why": str(row.get("why", ""))[:200]}
        for row in (rows if isinstance(rows, list) else [])[:20]
        if isinstance(row, dict)
    ]
    count = said.get("left_out_count")
    return (count if isinstance(count, int) and count >= 0 else len(shown)), shown


def _success(dispatch: Dispatch) -> Reason:
    return _with_left_out(because("job_done"), dispatch)


def _with_left_out(why: Reason, dispatch: Dispatch) -> Reason:
    """The reason, with the files that were not kept where there are any and it does not speak of them already."""
    count, shown = left_out(dispatch)
    if not count or not shown or why.code not in ("job_done", "job_exit_code", "job_timed_out"):
        return why
    row = shown[0]
    return because(f"{why.code}_in_part", **why.params, count=count, path=row["path"], why=row["why"])


def _failure(dispatch: Dispatch) -> Reason:
    if dispatch.reason_code == "dispatch_timed_out":
        return because("job_timed_out", limit_s=dispatch.reason_params["limit_s"])
    error = str(dispatch.reason_params.get("error") or "it gave no reason")
    if dispatch.exit_code == 0 and dispatch.state == DispatchState.FAILED:
        return because("job_not_kept", error=error)
    if dispatch.exit_code is not None:
        return because("job_exit_code", exit_code=dispatch.exit_code)
    return because("job_failed_on_worker", worker=dispatch.worker.name, error=error)


def _job_of(dispatch: Dispatch, *states: JobState) -> Job | None:
    if dispatch.job_id is None:
        return None
    return (
        Job.objects.select_for_update()
        .filter(pk=dispatch.job_id, attempt=dispatch.number, state__in=states)
        .first()
    )
