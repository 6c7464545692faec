"""Jobs as the tests of several files submit, claim and end them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import User

from agent import wire
from core.agents import AgentIdentity
from pool.models import Dispatch, Job, Worker
from pool.services.job_spec import JobSpec
from pool.services.reports import dispatch_claim, dispatch_finish
from pool.services.submission import job_submit
from tests.pool.conftest import NOON

SOON = NOON + timedelta(seconds=30)


def submit(owner: User, *, now: datetime | None = None, **spec: Any) -> Job:
    """Each a millisecond younger than the one before, unless `now` says otherwise."""
    if "script" not in spec:
        spec.setdefault("command", ["python", "train.py"])
    at = now or NOON + timedelta(milliseconds=Job.objects.count())
    return job_submit(owner=owner, spec=JobSpec(**spec), by=owner.get_username(), now=at)


def attempt(job: Job) -> Dispatch:
    return job.attempts.get(number=Job.objects.get(pk=job.pk).attempt)


def identity(worker: Worker) -> AgentIdentity:
    return AgentIdentity(worker_id=worker.pk, epoch=worker.epoch)


def claim(job: Job) -> wire.Claimed:
    row = attempt(job)
    return dispatch_claim(identity=identity(row.worker), dispatch_id=row.pk, now=SOON)


def finish(job: Job, outcome: str = "succeeded", exit_code: int | None = 0, **fields: Any) -> None:
    row = attempt(job)
    post = wire.FinishPost(fence=row.fence, outcome=outcome, exit_code=exit_code, **fields)
    dispatch_finish(identity=identity(row.worker), dispatch_id=row.pk, post=post, now=SOON)


def state(job: Job) -> tuple[str, str]:
    job.refresh_from_db()
    return job.state, job.reason
