"""Jobs as people submit and cancel them."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.utils import timezone

from core.errors import Invalid, TransitionRefused
from core.reasons import because
from core.transitions import advance, event_add
from pool.models import Account, Job, Worker
from pool.services.bell import dispatcher_ring
from pool.services.dispatches import dispatch_cancel, dispatch_locked
from pool.services.labels import labels_packed
from pool.states import OPEN, JobState, WorkerState

log = logging.getLogger(__name__)

TEXT_LIMIT_BYTES = 256 * 1024
"""Of a script, of all arguments together, and of all environment variables together."""

CHECKPOINT_MIN_S, CHECKPOINT_MAX_S = 6.0, 7 * 86_400.0
CHECKPOINT_USUAL_S = 600.0

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What to run, and what it needs. Exactly one of command (an argument list, no shell) and script.

    timeout_s counts from the start of each attempt. gpu_mem_bytes is per GPU. expected_hours: it is only started where
    so much is left. checkpoint_every_s: how often its working directory is kept, for its next attempt to go on from; None:
    never. instance_ref: run it on this instance only. labels: all of them must be its worker's. max_attempts: how often it may be begun.
    """

    name: str = ""
    command: Sequence[str] = ()
    script: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    grace_s: float = 15.0
    gpu_mem_bytes: int = 0
    provider: str = ""
    expected_hours: float | None = None
    checkpoint_every_s: float | None = None
    instance_ref: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    max_attempts: int = 5


def job_submit(*, owner: AbstractBaseUser, spec: JobSpec, by: str = "", now: datetime | None = None) -> Job:
    """Queue a job, or refuse it whole and write nothing.

    Raises Invalid for a spec that contradicts itself and for one that nothing here could ever run, with the reason.
    """
    now = now or timezone.now()
    _check_work(spec)
    _check_numbers(spec)
    _check_possible(owner, spec)
    labels = labels_packed(spec.labels)
    reason = because("job_submitted")
    with transaction.atomic():
        job = Job.objects.create(
            owner=owner,
            name=spec.name or _name(spec),
            command=list(spec.command),
            script=spec.script,
            env=dict(spec.env),
            timeout_s=spec.timeout_s,
            grace_s=spec.grace_s,
            gpu_mem_bytes=spec.gpu_mem_bytes,
            provider=spec.provider,
            expected_hours=spec.expected_hours,
            checkpoint_every_s=spec.checkpoint_every_s,
            instance_ref=spec.instance_ref,
            labels=labels,
            priority=spec.priority,
            max_attempts=spec.max_attempts,
            state=JobState.QUEUED,
            state_since=now,
            queued_at=now,
            **Job.reason_columns(reason),
        )
        event_add(job, "job_submitted", reason=reason, by=by, now=now, to_state=JobState.QUEUED)
        dispatcher_ring()
    log.info("job=%s submitted owner=%s name=%r", job.pk, owner.get_username(), job.name)
    return job


def job_cancel(job: Job, *, by: str = "", now: datetime | None = None) -> Job:
    """Stop a job: one that has not started at once, one that runs as soon as its worker has ended its processes.

    Cancelled already is fine. Raises TransitionRefused where it has ended otherwise. Returns the job as it is then.
    """
    now = now or timezone.now()
    for _ in range(3):
        try:
            with transaction.atomic():
                _cancel(job, by=by, now=now)
        except TransitionRefused:
            # A dispatcher or its worker moved it at this moment: what has to be done may be another thing now.
            job.refresh_from_db()
            if job.state in Job.TABLE.final:
                break
        else:
            break
    job.refresh_from_db()
    if job.state in Job.TABLE.final and job.state != JobState.CANCELLED:
        raise TransitionRefused(
            f"job {job.pk} has {job.state} already", hint="there is nothing left to cancel"
        )
    return job


def _cancel(job: Job, *, by: str, now: datetime) -> None:
    reason = because("job_cancelled", by=by or "its owner")
    held = job.attempts.filter(state__in=OPEN).values_list("pk", flat=True).first()
    # The dispatch first, then the job: the order in which everybody locks them.
    dispatch = dispatch_locked(held) if held else None
    if dispatch is None:
        if job.state not in Job.TABLE.final:
            advance(job, JobState.CANCELLED, reason=reason, by=by, now=now, ended_at=now)
        return
    asked = Job.objects.filter(pk=job.pk, cancel_requested_at__isnull=True)
    if asked.update(cancel_requested_at=now, cancel_requested_by=by):
        event_add(job, "job_cancel_asked", reason=reason, by=by, now=now)
    dispatch_cancel(dispatch, reason=reason, by=by, now=now)


# -- what is refused ------------------------------------------------------------------------------


def _check_work(spec: JobSpec) -> None:
    if bool(spec.command) == bool(spec.script.strip()):
        raise Invalid(
            "give a command or a script, one of the two", hint='for example {"command": ["python", "x.py"]}'
        )
    if not all(isinstance(word, str) for word in spec.command) or (spec.command and not spec.command[0]):
        raise Invalid("command must be a list of texts, the program first")
    wrong = [name for name in spec.env if not _VARIABLE.fullmatch(name)]
    if wrong:
        raise Invalid(
            f"env name {wrong[0]!r} is not a variable's name", hint="letters, digits and _, no digit first"
        )
    for what, texts in (
        ("script", [spec.script]),
        ("command", spec.command),
        ("env", [*spec.env, *spec.env.values()]),
    ):
        if any("\x00" in text for text in texts):
            raise Invalid(f"{what} holds a NUL character")
        size = sum(len(text.encode("utf-8", "replace")) for text in texts)
        if size > TEXT_LIMIT_BYTES:
            raise Invalid(
                f"{what} has {size} bytes, at most {TEXT_LIMIT_BYTES} are taken",
                hint="put large input into a file and have the job fetch it",
            )


def _check_numbers(spec: JobSpec) -> None:
    for name in ("timeout_s", "grace_s", "expected_hours", "checkpoint_every_s"):
        value = getattr(spec, name)
        if value is not None and not math.isfinite(value):
            raise Invalid(f"{name} must be a number")
    if spec.timeout_s is not None and spec.timeout_s <= 0:
        raise Invalid("timeout_s must be more than 0", hint="leave it out for no time limit")
    if not 0 <= spec.grace_s <= 3600:
        raise Invalid("grace_s must be between 0 and 3600")
    if spec.expected_hours is not None and spec.expected_hours <= 0:
        raise Invalid("expected_hours must be more than 0", hint="leave it out where you do not know")
    _check_checkpoint(spec)
    if not 0 <= spec.gpu_mem_bytes < 2**63:
        raise Invalid("gpu_mem_bytes must be a number of bytes from 0")
    if not -1000 <= spec.priority <= 1000:
        raise Invalid("priority must be between -1000 and 1000", hint="0 is usual, higher runs first")
    if not 1 <= spec.max_attempts <= 100:
        raise Invalid("max_attempts must be between 1 and 100")


def _check_checkpoint(spec: JobSpec) -> None:
    every_s = spec.checkpoint_every_s
    if every_s is None:
        return
    if not CHECKPOINT_MIN_S <= every_s <= CHECKPOINT_MAX_S:
        raise Invalid(
            f"checkpoint.every_minutes must be between {CHECKPOINT_MIN_S / 60:g} and {CHECKPOINT_MAX_S / 60:g}",
            hint="10 is usual; a job can also ask for one at any moment",
        )
    if spec.instance_ref:
        raise Invalid(
            "a job on an instance keeps no checkpoints of its own: it works in the instance's workspace",
            hint="leave checkpoint out: the workspace is kept whenever the instance goes to sleep",
        )


def _check_possible(owner: AbstractBaseUser, spec: JobSpec) -> None:
    """Refuse what could not run, whoever came online."""
    if spec.provider and spec.provider not in Account.Kind.values:
        raise Invalid(f"provider {spec.provider!r} is not one of {', '.join(Account.Kind.values)}")
    if spec.instance_ref:
        accounts = [_instance_account(owner, spec)]
    else:
        accounts = list(Account.objects.filter(enabled=True))
    fitting = [account for account in accounts if not spec.provider or account.kind == spec.provider]
    if spec.provider and not fitting:
        raise Invalid(
            f"no worker of {spec.provider} could ever run it: there is no such account"
            if not spec.instance_ref
            else f"the instance is not a {spec.provider} one",
            hint="leave provider out, or add an account",
        )
    if spec.expected_hours is None or not fitting:
        return
    longest = max(_longest_h(account) for account in fitting)
    if spec.expected_hours > longest:
        raise Invalid(
            f"it expects {spec.expected_hours:g} h, and no account here allows more than {longest:g} h in a session",
            hint="split it up, or leave expected_hours out and let it be interrupted",
        )


def _instance_account(owner: AbstractBaseUser, spec: JobSpec) -> Account:
    worker = (
        Worker.objects.filter(instance_ref=spec.instance_ref, owner=owner)
        .exclude(state=WorkerState.REVOKED)
        .select_related("account")
        .first()
    )
    if worker is None:
        raise Invalid(
            f"there is no instance {spec.instance_ref} of yours", hint="check the id: GET /api/instances"
        )
    return worker.account


def _longest_h(account: Account) -> float:
    limits = [limit for limit in (account.session_shutdown_h, account.weekly_limit_h) if limit is not None]
    return min(limits, default=float("inf"))


def _name(spec: JobSpec) -> str:
    """What a job is called that was given no name: the beginning of what it runs."""
    lines = " ".join(spec.command) or next(line for line in spec.script.splitlines() if line.strip())
    return lines.strip()[:120]
