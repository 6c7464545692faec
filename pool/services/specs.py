"""A job's row as the work that an agent gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings

from agent import wire
from pool.models import Dispatch
from snapshots.services.objects import objects_prefix


def artifacts_prefix(dispatch: Dispatch) -> str:
    """Where the objects of an attempt are in the store."""
    return objects_prefix(dispatch.job.owner, dispatch.pk)


def keep_of(dispatch: Dispatch, globs: Sequence[str]) -> wire.Keep:
    """What its agent must know to keep these files."""
    return wire.Keep(
        globs=tuple(globs),
        key_prefix=artifacts_prefix(dispatch),
        files_at_most=settings.JOB_ARTIFACTS_AT_MOST,
        file_bytes=settings.JOB_ARTIFACT_BYTES,
        total_bytes=settings.JOB_ARTIFACTS_BYTES,
    )


def job_work(dispatch: Dispatch) -> dict[str, Any]:
    """The work of a job's dispatch, as wire.Claimed describes it."""
    job = dispatch.job
    content = job.work
    work: dict[str, Any] = {
        "job_id": job.pk,
        "attempt": dispatch.number,
        "owner": str(job.owner_id),
        "env": content.env,
        "grace_s": job.grace_s,
    }
    if job.array is not None:
        work["array"] = {"index": job.array_index, "count": job.array.count}
    if content.script:
        work["script"] = content.script
    else:
        work["command"] = content.command
    if content.artifacts:
        work["artifacts"] = wire.to_json(keep_of(dispatch, content.artifacts))
    if content.file_count:
        work["files"] = content.file_count
    if content.workdir:
        work["workdir"] = content.workdir
    if job.checkpoint_every_s is not None:
        work["checkpoint"] = {"every_s": job.checkpoint_every_s}
    if job.timeout_s is not None:
        work["timeout_s"] = job.timeout_s
    return work
