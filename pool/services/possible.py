"""Whether the pool as it is could ever run a job: what cannot be is refused, what cannot be yet is worth a warning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agent import wire
from core.reasons import words
from pool.models import Account, Artifact, Job, JobArray, Worker
from pool.reasons import remedy_of
from pool.select import Need, why_waiting
from pool.services.job_spec import FileSpec, JobSpec, Problem
from pool.services.labels import labels_packed
from pool.services.waiting import groups_read
from pool.states import JobState, WorkerState

DEPENDENCIES_AT_MOST = 20_000
"""Rows that one request may make: its jobs times the jobs that they come after."""

NOT_YET = ("no_workers", "no_worker_of_provider", "no_worker_with_memory", "no_worker_with_labels")
"""Reasons to wait that only a new worker, or other labels, would end."""


@dataclass
class Before:
    """The jobs that a new one comes after, all of them visible to its owner. lost: one of them makes it impossible."""

    jobs: list[Job] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def open(self) -> list[Job]:
        """Those that have not ended."""
        return [job for job in self.jobs if job.state not in Job.TABLE.final]


def before_of(owner: Any, spec: JobSpec) -> Before:
    """Resolve `after`. Call it in the transaction that writes the dependants: the jobs are locked until it ends."""
    found = Before()
    names = list(dict.fromkeys(spec.after))
    if not names:
        return found
    rows = Job.objects.select_for_update().order_by("pk").only("pk", "state", "name", "array_id", "ended_at")
    mine = rows if owner.is_staff else rows.filter(owner=owner)
    arrays = set(JobArray.objects.filter(pk__in=names).values_list("pk", flat=True))
    by_job = {job.pk: job for job in mine.filter(pk__in=names)}
    for job in mine.filter(array_id__in=arrays)[: DEPENDENCIES_AT_MOST + 1] if arrays else ():
        by_job.setdefault(job.pk, job)
    known = set(by_job) | {job.array_id for job in by_job.values()}
    unknown = [name for name in names if name not in known]
    if unknown:
        found.problems.append(
            Problem(
                field="after",
                code="unknown_job",
                message=f"there is no job or array {unknown[0][:40]} of yours",
                hint="GET /api/jobs lists them",
            )
        )
    found.jobs = list(by_job.values())
    if len(found.jobs) * (spec.count or 1) > DEPENDENCIES_AT_MOST:
        found.problems.append(
            Problem(
                field="after",
                code="too_many",
                message=f"{spec.count or 1} jobs after {len(found.jobs)} are more than {DEPENDENCIES_AT_MOST} in all",
                hint="put one job in between that does nothing but come after all of them",
            )
        )
    ended_otherwise = next(
        (job for job in found.jobs if job.state in Job.TABLE.final and job.state != JobState.SUCCEEDED), None
    )
    if ended_otherwise is not None and spec.after_policy == Job.After.SUCCEEDED:
        found.problems.append(
            Problem(
                field="after",
                code="never",
                message=f"{ended_otherwise.pk} has {ended_otherwise.state}: nothing can come after its success",
                hint="leave it out, or submit with after_policy ended",
            )
        )
    return found


def problems_in_pool(owner: Any, spec: JobSpec, before: Before) -> list[Problem]:
    """What could not run, whoever came online."""
    return [*before.problems, *_accounts(owner, spec), *_sources(owner, spec, before)]


def _accounts(owner: Any, spec: JobSpec) -> Iterator[Problem]:
    if spec.provider and spec.provider not in Account.Kind.values:
        kinds = ", ".join(Account.Kind.values)
        yield Problem(
            field="provider", code="unknown", message=f"provider {spec.provider[:40]!r} is not one of {kinds}"
        )
        return
    if spec.instance_ref:
        account = _instance_account(owner, spec)
        if account is None:
            yield Problem(
                field="instance",
                code="unknown",
                message=f"there is no instance {spec.instance_ref[:40]} of yours",
                hint="check the id: GET /api/instances",
            )
            return
        accounts = [account]
    else:
        accounts = list(Account.objects.filter(enabled=True))
    fitting = [account for account in accounts if not spec.provider or account.kind == spec.provider]
    if spec.provider and not fitting:
        yield Problem(
            field="provider",
            code="never",
            message=f"no worker of {spec.provider} could ever run it: there is no such account"
            if not spec.instance_ref
            else f"the instance is not a {spec.provider} one",
            hint="leave provider out, or add an account",
        )
    if spec.expected_hours is None or not fitting:
        return
    longest = max(_longest_h(account) for account in fitting)
    if spec.expected_hours > longest:
        yield Problem(
            field="expected_hours",
            code="never",
            message=f"it expects {spec.expected_hours:g} h, and no account here allows more than {longest:g} h in a session",
            hint="split it up, or leave expected_hours out and let it be interrupted",
        )


def _instance_account(owner: Any, spec: JobSpec) -> Account | None:
    worker = (
        Worker.objects.filter(instance_ref=spec.instance_ref, owner=owner)
        .exclude(state=WorkerState.REVOKED)
        .select_related("account")
        .first()
    )
    return worker.account if worker is not None else None


def _longest_h(account: Account) -> float:
    limits = [limit for limit in (account.session_shutdown_h, account.weekly_limit_h) if limit is not None]
    return min(limits, default=float("inf"))


# -- files that earlier jobs leave ------------------------------------------------------------------


def _sources(owner: Any, spec: JobSpec, before: Before) -> Iterator[Problem]:
    asked = [file for file in spec.files if file.source_job]
    if not asked:
        return
    rows = Job.objects.select_related("array").filter(pk__in={file.source_job for file in asked})
    jobs = {job.pk: job for job in (rows if owner.is_staff else rows.filter(owner=owner))}
    waited_for = {job.pk for job in before.jobs}
    for file in asked:
        job = jobs.get(file.source_job)
        if job is None:
            yield _source(file, "unknown_job", f"there is no job {file.source_job[:40]} of yours")
        elif job.state not in Job.TABLE.final and job.pk not in waited_for:
            yield _source(
                file,
                "not_after",
                f"{job.pk} has not ended: its artifacts are not there yet",
                f'add "{job.pk}" to after',
            )
        elif not any(wire.glob_matches(glob, file.source_path) for glob in job.work.artifacts):
            yield _source(
                file,
                "never",
                f"{job.pk} leaves no artifact {file.source_path[:60]!r}",
                "name it in that job's artifacts",
            )
        elif job.state in Job.TABLE.final and not _is_there(job, file):
            yield _source(
                file,
                "never",
                f"{job.pk} has left no artifact {file.source_path[:60]!r}",
                f"GET /api/jobs/{job.pk}/artifacts lists what it has left",
            )


def _is_there(job: Job, file: FileSpec) -> bool:
    return Artifact.objects.filter(
        dispatch__job=job, dispatch__number=job.attempt, path=file.source_path
    ).exists()


def _source(file: FileSpec, code: str, message: str, hint: str = "") -> Problem:
    return Problem(field="files", code=code, message=f"file {file.path[:60]!r}: {message}", hint=hint)


# -- what is not impossible, only not there ---------------------------------------------------------


def warnings_of(owner: Any, spec: JobSpec, *, now: datetime) -> list[Problem]:
    """What no worker of the pool has at present, so that the job would wait until one does."""
    if spec.instance_ref:
        return []
    need = Need(
        tenant_id=owner.pk,
        gpu_mem_bytes=spec.gpu_mem_bytes,
        provider=spec.provider,
        labels=labels_packed(spec.labels),
    )
    reason = why_waiting(groups_read(hours=(), now=now), need)
    if reason.code not in NOT_YET:
        return []
    where = {
        "no_worker_of_provider": "provider",
        "no_worker_with_memory": "gpu_mem_bytes",
        "no_worker_with_labels": "labels",
    }
    remedy = words(remedy_of(reason.code), reason.params)
    return [Problem(field=where.get(reason.code, ""), code=reason.code, message=str(reason), hint=remedy)]
