"""Accounts, workers, sessions, jobs, dispatches, samples."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from core.fields import SecretField
from core.ids import new_id
from core.models import Stateful
from pool.states import DISPATCH, JOB, OPEN, WORKER, DispatchState, JobState, WorkerState

HAUNTING = {
    "state": DispatchState.WITHDRAWN,
    "claimed_at__isnull": False,
    "finished_at__isnull": True,
}
"""Dispatches that were taken back from a worker that had begun them and has not been seen without them since."""


def account_id() -> str:
    return new_id("acc")


def worker_id() -> str:
    return new_id("w")


def job_id() -> str:
    return new_id("j")


def dispatch_id() -> str:
    return new_id("d")


class Account(models.Model):
    """A provider account of one person, with its quota as data: nothing about limits is written into the code.

    Hours are hours of session runtime. percent: a worker is safe below it. Where a limit is null it does not apply.
    """

    class Kind(models.TextChoices):
        COLAB = "colab", "Google Colab"
        KAGGLE = "kaggle", "Kaggle"
        VAST = "vast", "vast.ai"
        LOCAL = "local", _("this machine")

    id = models.CharField(primary_key=True, max_length=24, default=account_id, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="accounts")
    kind = models.CharField(max_length=12, choices=Kind)
    label = models.CharField(max_length=80)
    enabled = models.BooleanField(default=True)
    credentials = SecretField(
        blank=True, default="", help_text=_("JSON, encrypted at rest, never shown again")
    )
    session_limit_h = models.FloatField(
        null=True, blank=True, help_text=_("the provider ends a session then")
    )
    session_shutdown_h = models.FloatField(
        null=True, blank=True, help_text=_("the agent ends it itself then")
    )
    weekly_limit_h = models.FloatField(
        null=True, blank=True, help_text=_("per week and account, all workers together")
    )
    safe_percent = models.FloatField(
        default=90,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text=_("safe below this use"),
    )
    reset_weekday = models.PositiveSmallIntegerField(
        default=0, validators=[MaxValueValidator(6)], help_text=_("0 = Monday")
    )
    reset_hour = models.PositiveSmallIntegerField(default=0, validators=[MaxValueValidator(23)])
    reset_zone = models.CharField(max_length=64, default="UTC")
    budget_usd_per_day = models.DecimalField(max_digits=10, decimal_places=2, null=True, blank=True)
    budget_usd_per_month = models.DecimalField(max_digits=10, decimal_places=2, null=True, blank=True)
    price_cap_usd_per_h = models.DecimalField(max_digits=10, decimal_places=4, null=True, blank=True)
    # At most what a policy may say: a worker that posts more seldom would be lost between two posts.
    check_interval_s = models.FloatField(
        default=30,
        validators=[MinValueValidator(0.05), MaxValueValidator(300)],
        help_text=_("how often its new workers post"),
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["kind", "label"]
        constraints = [models.UniqueConstraint(fields=["owner", "kind", "label"], name="account_label")]

    def __str__(self) -> str:
        return f"{self.kind} {self.label}"


class AccountWeek(models.Model):
    """Seconds of session runtime that an account's workers used in one of its weeks.

    used_s: proven by their reports. estimated_s: of sessions that fell silent or never say how long they have run.
    official_s: what the provider itself said at official_at, own_s what was counted here by then; since_s and
    since_estimated_s: what of used_s and estimated_s lies after official_at, and so is added to official_s.
    """

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="weeks")
    starts_at = models.DateTimeField()
    used_s = models.FloatField(default=0)
    estimated_s = models.FloatField(default=0, db_default=0)
    official_s = models.FloatField(null=True, blank=True)
    official_at = models.DateTimeField(null=True, blank=True)
    own_s = models.FloatField(null=True, blank=True)
    since_s = models.FloatField(default=0, db_default=0)
    since_estimated_s = models.FloatField(default=0, db_default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "starts_at"], name="account_week")]

    def __str__(self) -> str:
        return f"{self.account_id} {self.starts_at:%Y-%m-%d}"


class Worker(Stateful):
    """One enrolled agent. Its epoch counts its enrolments: a token of an older epoch opens nothing.

    instance_ref: the rented instance whose box this is, or empty for a worker of the shared pool.
    owner: who alone may see and use it, or null for a worker of the shared pool.
    check_interval_s: how often it posts. due_at: when the next check of its silence is due; a worker whose posts are
    overdue by more than one interval is suspect, by more than two lost. drain_asked_at: since when it is ordered to
    drain, whatever its state is meanwhile; null where no such order stands.
    """

    TABLE = WORKER
    SUBJECT = "worker"
    FENCE = "epoch"

    id = models.CharField(primary_key=True, max_length=24, default=worker_id, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="workers")
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="workers"
    )
    name = models.CharField(max_length=80)
    epoch = models.PositiveIntegerField(default=0)
    instance_ref = models.CharField(max_length=40, blank=True, default="")
    slots = models.PositiveSmallIntegerField(default=1)
    check_interval_s = models.FloatField(default=30)
    secret_sha256 = models.CharField(max_length=64, blank=True, default="", editable=False)
    next_secret_sha256 = models.CharField(max_length=64, blank=True, default="", editable=False)
    retired_secret_sha256 = models.CharField(max_length=64, blank=True, default="", editable=False)
    gpu_name = models.CharField(max_length=80, blank=True, default="")
    gpu_count = models.PositiveSmallIntegerField(default=0)
    gpu_mem_bytes = models.BigIntegerField(default=0, help_text=_("of its smallest GPU"))
    gpu_util = models.FloatField(null=True, blank=True, help_text=_("percent; empty: unknown"))
    last_seen_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(null=True, blank=True, editable=False)
    drain_asked_at = models.DateTimeField(null=True, blank=True, editable=False)
    agent_version = models.CharField(max_length=40, blank=True, default="")
    platform = models.CharField(max_length=120, blank=True, default="")
    health_url = models.URLField(blank=True, default="")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["instance_ref"],
                condition=~Q(instance_ref="") & ~Q(state=WorkerState.REVOKED),
                name="worker_one_per_instance",
            ),
            models.UniqueConstraint(
                fields=["account", "name"],
                condition=~Q(state=WorkerState.REVOKED),
                name="worker_name",
                violation_error_message=_("another worker of this account has that name"),
            ),
        ]
        indexes = [
            models.Index(fields=["state", "instance_ref"], name="worker_state"),
            # Not "state in …": SQLite does not use a partial index for an IN with bound parameters.
            models.Index(fields=["due_at"], condition=Q(due_at__isnull=False), name="worker_due"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"

    def event_owner_id(self) -> int | None:
        return self.owner_id or self.account.owner_id


class Session(models.Model):
    """One continuous run of a worker's machine: its runtime is what counts against quota.

    The columns are those of `pool.growth.Session`, `earlier` as JSON. An epoch has one row, of its present session.
    """

    worker = models.ForeignKey(Worker, on_delete=models.CASCADE, related_name="sessions")
    epoch = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    runtime_s = models.FloatField(default=0, help_text=_("as last reported"))
    counted_s = models.FloatField(default=0, help_text=_("of that, already counted against quota"))
    clock_started_at = models.DateTimeField(null=True, blank=True, help_text=_("by the agent's own clock"))
    estimated_until = models.DateTimeField(
        null=True, blank=True, help_text=_("until then it counts although no report has proven it")
    )
    earlier = models.JSONField(default=list, blank=True, help_text=_("sessions before it in this epoch"))
    last_post_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["worker", "epoch"], name="session_epoch")]

    def __str__(self) -> str:
        return f"{self.worker_id}#{self.epoch}"


class EnrollmentToken(models.Model):
    """Trades once (or `uses_left` times) for a worker's identity. Only its hash is kept.

    worker and epoch: set for a rented instance's box, which takes up an identity that exists already.
    """

    id = models.BigAutoField(primary_key=True)
    sha256 = models.CharField(max_length=64, unique=True, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    worker = models.ForeignKey(Worker, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    epoch = models.PositiveIntegerField(null=True, blank=True)
    uses_left = models.PositiveIntegerField(default=1)
    expires_at = models.DateTimeField()
    created_by = models.CharField(max_length=150, blank=True, default="")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"for {self.account_id}"


class EnrollmentUse(models.Model):
    """A token that was traded, and by which request: the same request asked again gets the same identity."""

    token = models.ForeignKey(EnrollmentToken, on_delete=models.CASCADE, related_name="uses")
    request_id = models.CharField(max_length=80)
    worker = models.ForeignKey(Worker, on_delete=models.CASCADE, related_name="+")
    epoch = models.PositiveIntegerField()
    used_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["token", "request_id"], condition=~Q(request_id=""), name="enrollment_use_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.worker_id}#{self.epoch}"


class Choice(models.Model):
    """When a tenant was last given a worker: what round robin turns on."""

    tenant = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    worker = models.ForeignKey(Worker, on_delete=models.CASCADE, related_name="+")
    chosen_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "worker"], name="choice_tenant_worker")]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.worker_id}"


class Job(Stateful):
    """A command to run somewhere. `attempt` counts its tries; a report from an older one changes nothing."""

    TABLE = JOB
    SUBJECT = "job"
    FENCE = "attempt"

    id = models.CharField(primary_key=True, max_length=24, default=job_id, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="jobs")
    name = models.CharField(max_length=120)
    command = models.JSONField(default=list, blank=True, help_text=_("argument list; or use script"))
    script = models.TextField(blank=True, default="")
    env = models.JSONField(default=dict, blank=True)
    timeout_s = models.FloatField(
        null=True, blank=True, help_text=_("counted from the first start of each attempt")
    )
    grace_s = models.FloatField(default=15, help_text=_("between TERM and KILL"))
    gpu_mem_bytes = models.BigIntegerField(default=0, help_text=_("per GPU"))
    provider = models.CharField(max_length=12, blank=True, default="")
    expected_hours = models.FloatField(null=True, blank=True)
    instance_ref = models.CharField(
        max_length=40, blank=True, default="", help_text=_("run it on this instance only")
    )
    priority = models.SmallIntegerField(default=0, help_text=_("higher runs first"))
    attempt = models.PositiveIntegerField(default=0)
    max_attempts = models.PositiveIntegerField(default=5)
    exit_code = models.IntegerField(null=True, blank=True)
    queued_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_by = models.CharField(max_length=150, blank=True, default="")

    class Meta:
        ordering = ["-queued_at"]
        indexes = [
            models.Index(
                fields=["-priority", "queued_at"], condition=Q(state=JobState.QUEUED), name="job_queue"
            ),
            models.Index(fields=["owner", "-queued_at"], name="job_owner"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"


class Dispatch(Stateful):
    """One piece of work for one worker in one epoch: a job's attempt, a snapshot, a restore, a command.

    The Celery message carries only its id. The worker claims it over HTTPS and gets `work` with a fence; every later
    report must carry that fence. ref: what it is for, in the words of whoever asked (a snapshot's id, say). key: makes
    asking twice for the same thing find the first. slot: which of the worker's slots a job holds while it is open.
    finished_at: when the worker was known to be done with it; a withdrawn one without it may still be running there.
    """

    TABLE = DISPATCH
    SUBJECT = "dispatch"
    FENCE = "fence"

    class Kind(models.TextChoices):
        JOB = "job"
        SNAPSHOT = "snapshot"
        RESTORE = "restore"
        COMMAND = "command"

    id = models.CharField(primary_key=True, max_length=24, default=dispatch_id, editable=False)
    worker = models.ForeignKey(Worker, on_delete=models.CASCADE, related_name="dispatches")
    epoch = models.PositiveIntegerField()
    kind = models.CharField(max_length=12, choices=Kind)
    job = models.ForeignKey(Job, null=True, blank=True, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField(default=0, help_text=_("the job's attempt"))
    slot = models.PositiveSmallIntegerField(null=True, blank=True)
    ref = models.CharField(max_length=40, blank=True, default="")
    key = models.CharField(max_length=80, null=True, blank=True, unique=True)
    work = models.JSONField(default=dict)
    fence = models.PositiveIntegerField(default=0)
    lease_until = models.DateTimeField(null=True, blank=True)
    rung_at = models.DateTimeField(default=timezone.now)
    claimed_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    exit_code = models.IntegerField(null=True, blank=True)
    result = models.JSONField(default=dict, blank=True)
    progress = models.JSONField(default=dict, blank=True)
    progress_at = models.DateTimeField(null=True, blank=True)
    log_bytes = models.BigIntegerField(default=0)

    class Meta:
        ordering = ["-rung_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["job"], condition=Q(state__in=OPEN), name="dispatch_one_open_per_job"
            ),
            models.UniqueConstraint(
                fields=["worker", "slot"],
                condition=Q(state__in=OPEN, slot__isnull=False),
                name="dispatch_one_open_per_slot",
            ),
            models.UniqueConstraint(
                fields=["job", "number"], condition=Q(job__isnull=False), name="dispatch_attempt_number"
            ),
            models.CheckConstraint(
                condition=~Q(state=DispatchState.CLAIMED) | Q(lease_until__isnull=False),
                name="dispatch_claimed_has_a_lease",
            ),
        ]
        indexes = [
            models.Index(fields=["state", "worker"], name="dispatch_state"),
            models.Index(
                fields=["lease_until"], condition=Q(state=DispatchState.CLAIMED), name="dispatch_lease"
            ),
            models.Index(fields=["rung_at"], condition=Q(state=DispatchState.RUNG), name="dispatch_rung"),
            models.Index(fields=["worker"], condition=Q(**HAUNTING), name="dispatch_haunting"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    def event_owner_id(self) -> int | None:
        return self.job.owner_id if self.job else self.worker.account.owner_id

    def event_data(self) -> dict[str, Any]:
        return {"kind": self.kind, "worker": self.worker_id, "job": self.job_id, "ref": self.ref}


class LogChunk(models.Model):
    """A piece of a dispatch's output, as raw bytes from `offset` of the whole stream."""

    dispatch = models.ForeignKey(Dispatch, on_delete=models.CASCADE, related_name="chunks")
    offset = models.BigIntegerField()
    data = models.BinaryField()

    class Meta:
        ordering = ["offset"]
        constraints = [models.UniqueConstraint(fields=["dispatch", "offset"], name="log_chunk_offset")]

    def __str__(self) -> str:
        return f"{self.dispatch_id}@{self.offset}"


class Sample(models.Model):
    """One reading of a worker, by the server's clock. gpu_util null means unknown, which is never idle."""

    worker = models.ForeignKey(Worker, on_delete=models.CASCADE, related_name="samples")
    epoch = models.PositiveIntegerField()
    at = models.DateTimeField()
    gpu_util = models.FloatField(null=True)
    status = models.CharField(max_length=16, blank=True, default="")
    readings = models.JSONField(
        default=dict, help_text=_("gpus, cpu_util, net_bytes_per_s, sessions, jobs …")
    )

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["worker", "-at"], name="sample_worker_at")]

    def __str__(self) -> str:
        return f"{self.worker_id} {self.at:%H:%M:%S} {self.gpu_util}"


# Last, because its rows point at the ones above. Django finds an app's models here.
from pool.provider_models import NotebookStart as NotebookStart  # noqa: E402
from pool.provider_models import OfficialQuota as OfficialQuota  # noqa: E402
from pool.provider_models import TermsAcknowledgement as TermsAcknowledgement  # noqa: E402
