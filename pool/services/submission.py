"""Jobs and arrays of jobs as people submit them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import IntegrityError, transaction
from django.utils import timezone

from core.errors import DomainError
from core.models import Event
from core.reasons import Reason, because
from pool.models import Job, JobArray, JobDependency, JobFile, Submission
from pool.services.bell import dispatcher_ring
from pool.services.job_spec import FileSpec, JobSpec, problems_of, refuse
from pool.services.labels import labels_packed
from pool.services.possible import Before, before_of, problems_in_pool
from pool.states import JobState

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 1_000


class KeyReused(DomainError):
    """An Idempotency-Key came again with another request."""

    status = 422
    code = "idempotency_key_reused"


def submit_once(
    *, owner: AbstractBaseUser, key: str, body: Any, spec: JobSpec, by: str = "", now: datetime | None = None
) -> tuple[Job | JobArray, bool]:
    """As job_submit or array_submit, once for a key: the same key and body again give what they made the first time, and
    False. An empty key is none. Raises KeyReused where the body is another one."""
    if not key:
        return _submit(owner=owner, spec=spec, by=by, now=now), True
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    made = _made(owner, key, digest)
    if made is not None:
        return made, False
    try:
        with transaction.atomic():
            row = _submit(owner=owner, spec=spec, by=by, now=now)
            is_array = isinstance(row, JobArray)
            Submission.objects.create(
                owner=owner,
                key=key,
                body_sha256=digest,
                job=None if is_array else row,
                array=row if is_array else None,
            )
    except IntegrityError:
        # Somebody sent the same key at the same moment, and was first.
        made = _made(owner, key, digest)
        if made is None:
            raise
        return made, False
    return row, True


def _made(owner: AbstractBaseUser, key: str, digest: str) -> Job | JobArray | None:
    found = Submission.objects.select_related("job", "array").filter(owner=owner, key=key).first()
    if found is None:
        return None
    if found.body_sha256 != digest:
        raise KeyReused(
            f"Idempotency-Key {key[:60]!r} was used for another request",
            hint="a key belongs to one request: make a new one",
        )
    return found.job or found.array


def _submit(*, owner: AbstractBaseUser, spec: JobSpec, by: str, now: datetime | None) -> Job | JobArray:
    if spec.count is None:
        return job_submit(owner=owner, spec=spec, by=by, now=now)
    return array_submit(owner=owner, spec=spec, by=by, now=now)


def job_submit(*, owner: AbstractBaseUser, spec: JobSpec, by: str = "", now: datetime | None = None) -> Job:
    """Queue a job, or refuse it whole and write nothing.

    Raises Invalid for a spec that contradicts itself and for one that nothing here could ever run, with the reasons.
    """
    now = now or timezone.now()
    refuse(problems_of(spec))
    with transaction.atomic():
        before = before_of(owner, spec)
        refuse(problems_in_pool(owner, spec, before))
        job = Job(**_work(spec), **_columns(owner, spec, before, now=now))
        _insert([job], before, by=by, now=now)
        _files([job], None, spec.files)
    log.info("job=%s submitted owner=%s name=%r", job.pk, owner.get_username(), job.name)
    return job


def array_submit(
    *, owner: AbstractBaseUser, spec: JobSpec, by: str = "", now: datetime | None = None
) -> JobArray:
    """Queue spec.count jobs that share what they run. As job_submit otherwise: all of them, or none."""
    now = now or timezone.now()
    refuse(problems_of(spec))
    with transaction.atomic():
        before = before_of(owner, spec)
        refuse(problems_in_pool(owner, spec, before))
        array = JobArray.objects.create(
            owner=owner, name=spec.title(), count=spec.count, created_at=now, **_work(spec)
        )
        columns = _columns(owner, spec, before, now=now)
        _insert([Job(array=array, array_index=index, **columns) for index in range(spec.count or 0)],
                before, by=by, now=now)  # fmt: skip
        _files([], array, spec.files)
    log.info(
        "array=%s of %d submitted owner=%s name=%r", array.pk, array.count, owner.get_username(), array.name
    )
    return array


def _work(spec: JobSpec) -> dict[str, Any]:
    return {
        "command": list(spec.command),
        "script": spec.script,
        "env": dict(spec.env),
        "workdir": spec.workdir,
        "artifacts": list(spec.artifacts),
        "file_count": len(spec.files),
        "after": list(dict.fromkeys(spec.after)),
    }


def _columns(owner: Any, spec: JobSpec, before: Before, *, now: datetime) -> dict[str, Any]:
    state, reason = _begins(before, spec)
    return {
        "owner": owner,
        "name": spec.title(),
        "timeout_s": spec.timeout_s,
        "grace_s": spec.grace_s,
        "gpu_mem_bytes": spec.gpu_mem_bytes,
        "provider": spec.provider,
        "expected_hours": spec.expected_hours,
        "checkpoint_every_s": spec.checkpoint_every_s,
        "instance_ref": spec.instance_ref,
        "labels": labels_packed(spec.labels),
        "priority": spec.priority,
        "max_attempts": spec.max_attempts,
        "retry": spec.retry.as_json() if spec.retry is not None else None,
        "after_policy": spec.after_policy,
        "state": state,
        "state_since": now,
        "queued_at": now,
        **Job.reason_columns(reason),
    }


def _begins(before: Before, spec: JobSpec) -> tuple[JobState, Reason]:
    """Its first state: those that it comes after are told by their end, so that one which has ended counts as told."""
    waits = before.open
    if not waits:
        return JobState.QUEUED, because("job_submitted")
    if len(waits) == 1:
        return JobState.DEFERRED, because("job_after", job=waits[0].pk, what=spec.after_policy)
    return JobState.DEFERRED, because(
        "job_after_many", count=len(waits), job=waits[0].pk, what=spec.after_policy
    )


def _insert(jobs: Sequence[Job], before: Before, *, by: str, now: datetime) -> None:
    Job.objects.bulk_create(jobs, batch_size=ROWS_AT_ONCE)
    Event.objects.bulk_create(
        (
            Event(
                at=now,
                subject_type=Job.SUBJECT,
                subject_id=job.pk,
                code="job_submitted",
                to_state=job.state,
                by=by,
                owner_id=job.owner_id,
                reason_code=job.reason_code,
                reason_params=job.reason_params,
            )
            for job in jobs
        ),
        batch_size=ROWS_AT_ONCE,
    )
    waits = {job.pk for job in before.open}
    if before.jobs:
        JobDependency.objects.bulk_create(
            (
                JobDependency(job=job, on=other, settled=other.pk not in waits)
                for job in jobs
                for other in before.jobs
            ),
            batch_size=ROWS_AT_ONCE,
        )
    for begin in range(0, len(before.open), ROWS_AT_ONCE):
        some = [job.pk for job in before.open[begin : begin + ROWS_AT_ONCE]]
        Job.objects.filter(pk__in=some).update(has_dependants=True)
    dispatcher_ring()


def _files(jobs: Sequence[Job], array: JobArray | None, files: Sequence[FileSpec]) -> None:
    JobFile.objects.bulk_create(
        JobFile(
            job=None if array is not None else jobs[0],
            array=array,
            path=file.path,
            mode=file.mode,
            length=len(file.data) if file.data is not None else 0,
            data=file.data,
            source_job_id=file.source_job or None,
            source_path=file.source_path,
        )
        for file in files
    )
