"""What others may read of jobs and arrays of jobs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.models import Count, Prefetch, QuerySet

from pool.models import Dispatch, Job, JobArray, JobFile


def jobs_of(user: Any) -> QuerySet[Job]:
    """The jobs that a person may see, each with its attempts; staff sees all."""
    attempts = Dispatch.objects.select_related("worker__account").order_by("number")
    rows = Job.objects.select_related("owner", "waiting").prefetch_related(
        "array", Prefetch("attempts", queryset=attempts)
    )
    return rows if user.is_staff else rows.filter(owner=user)


def jobs_listed(user: Any) -> QuerySet[Job]:
    """As jobs_of, without what makes a row long: what it runs (a page of scripts can be 128 MiB), what workers reported."""
    long = ("command", "script", "env", "artifacts", "after")
    attempts = Dispatch.objects.select_related("worker__account").order_by("number")
    attempts = attempts.defer("work", "result", "progress", "late")
    arrays = JobArray.objects.defer(*long)
    # Django does not join what has no column of its own (waiting) to a row of which it reads only a part.
    rows = Job.objects.select_related("owner").defer(*long)
    rows = rows.prefetch_related(
        "waiting", Prefetch("array", queryset=arrays), Prefetch("attempts", queryset=attempts)
    )
    return rows if user.is_staff else rows.filter(owner=user)


def files_of(job: Job) -> QuerySet[JobFile]:
    """The files that a job is given, without their bytes."""
    owner = {"array": job.array_id} if job.array_id else {"job": job.pk}
    return JobFile.objects.filter(**owner).defer("data").order_by("pk")


def arrays_of(user: Any) -> QuerySet[JobArray]:
    """The arrays that a person may see; staff sees all."""
    rows = JobArray.objects.select_related("owner")
    return rows if user.is_staff else rows.filter(owner=user)


def arrays_shown(arrays: Iterable[JobArray]) -> list[JobArray]:
    """The same arrays, each with `statuses` set: how many of its jobs are in which state. One query."""
    rows = list(arrays)
    counted: dict[str, dict[str, int]] = {array.pk: {} for array in rows}
    found = Job.objects.filter(array__in=list(counted)).order_by()
    for array_id, state, jobs in found.values_list("array_id", "state").annotate(jobs=Count("pk")):
        counted[array_id][state] = jobs
    for array in rows:
        array.statuses = counted[array.pk]
    return rows
