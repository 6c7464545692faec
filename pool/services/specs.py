"""A job's row as the work that an agent gets."""

from __future__ import annotations

from typing import Any

from pool.models import Dispatch


def job_work(dispatch: Dispatch) -> dict[str, Any]:
    """The work of a job's dispatch, as wire.Claimed describes it."""
    job = dispatch.job
    content = job.work
    work: dict[str, Any] = {
        "job_id": job.pk,
        "attempt": dispatch.number,
        "env": content.env,
        "grace_s": job.grace_s,
    }
    if job.array is not None:
        work["array"] = {"index": job.array_index, "count": job.array.count}
    if content.script:
        work["script"] = content.script
    else:
        work["command"] = content.command
    if content.workdir:
        work["workdir"] = content.workdir
    if job.timeout_s is not None:
        work["timeout_s"] = job.timeout_s
    return work
