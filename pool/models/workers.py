"""Enrolled agents, their sessions and readings, and the tokens that they enrol with."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from core.ids import new_id
from core.models import Stateful
from pool.models.accounts import Account
from pool.models.lines import LABELS_LIMIT
from pool.states import WORKER, WorkerState


def worker_id() -> str:
    return new_id("w")


class Worker(Stateful):
    """One enrolled agent. Its epoch counts its enrolments: a token of an older epoch opens nothing.

    instance_ref: the rented instance whose box this is, or empty for a worker of the shared pool.
    owner: who alone may see and use it, or null for a worker of the shared pool.
    check_interval_s: how often it posts. due_at: when the next check of its silence is due; a worker whose posts are
    overdue by more than one interval is suspect, by more than two lost. drain_asked_at: since when it is ordered to
    drain, whatever its state is meanwhile; null where no such order stands.

    What selection decides by is kept in columns (docs/design/selection.md). labels: as pool.labels.packed writes them.
    used_percent: of its quota, as last read. safe_until, ends_at: when it is near its limit and when its session or week
    is used up, if its machine goes on running; null: never. renews_at: when the three must be read anew, whatever was
    posted; null: only posts change them. taken: how many of its slots hold a job, as the dispatcher last counted.
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
    named = models.BooleanField(
        default=True, editable=False, help_text=_("by whoever joined it; else it got a name here")
    )
    epoch = models.PositiveIntegerField(default=0)
    instance_ref = models.CharField(max_length=40, blank=True, default="")
    saved_ref = models.CharField(
        max_length=40,
        blank=True,
        default="",
        editable=False,
        help_text=_("the verified snapshot of its workspace"),
    )
    slots = models.PositiveSmallIntegerField(default=1)
    check_interval_s = models.FloatField(default=30)
    secret_sha256 = models.CharField(max_length=64, blank=True, default="", editable=False)
    next_secret_sha256 = models.CharField(max_length=64, blank=True, default="", editable=False)
    retired_secret_sha256 = models.CharField(max_length=64, blank=True, default="", editable=False)
    gpu_name = models.CharField(max_length=80, blank=True, default="")
    gpu_count = models.PositiveSmallIntegerField(default=0)
    gpu_mem_bytes = models.BigIntegerField(default=0, help_text=_("of its smallest GPU"))
    gpu_util = models.FloatField(null=True, blank=True, help_text=_("percent; empty: unknown"))
    labels = models.CharField(max_length=LABELS_LIMIT, blank=True, default="", editable=False)
    used_percent = models.FloatField(default=0, editable=False)
    safe_until = models.DateTimeField(null=True, blank=True, editable=False)
    ends_at = models.DateTimeField(null=True, blank=True, editable=False)
    renews_at = models.DateTimeField(null=True, blank=True, editable=False)
    taken = models.PositiveSmallIntegerField(default=0, editable=False)
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
            # In the order in which selection asks for workers that can take a job.
            models.Index(
                fields=["instance_ref", "used_percent", "id"],
                condition=Q(state=WorkerState.ONLINE, taken__lt=F("slots")),
                name="worker_open",
            ),
            models.Index(fields=["renews_at"], condition=Q(renews_at__isnull=False), name="worker_renews"),
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
