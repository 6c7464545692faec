"""A job's row as the work that an agent gets."""

from __future__ import annotations

from typing import Any

from pool.models import Dispatch


def job_work(dispatch: Dispatch) -> dict[str, Any]:
    """The work of a job's dispatch, as wire.Claimed describes it."""
    job = dispatch.job
    work: dict[str, Any] = {
        "job_id": job.pk,
        "attempt": dispatch.number,
        "env": job.env,
        "grace_s": job.grace_s,
    }
    if job.script:
        work["script"] = job.script
    else:
        work["command"] = job.command
    if job.checkpoint_every_s is not None:
        work["checkpoint"] = {"every_s": job.checkpoint_every_s}
    if job.timeout_s is not None:
        work["timeout_s"] = job.timeout_s
    return work
