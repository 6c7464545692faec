"""Work that was given to workers, and its output."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from core.ids import new_id
from core.models import Stateful
from pool.models.jobs import Job
from pool.models.workers import Worker
from pool.states import DISPATCH, OPEN, DispatchState

HAUNTING = {
    "state": DispatchState.WITHDRAWN,
    "claimed_at__isnull": False,
    "finished_at__isnull": True,
}
"""Dispatches that were taken back from a worker that had begun them and has not been seen without them since."""


def dispatch_id() -> str:
    return new_id("d")


class Dispatch(Stateful):
    """One piece of work for one worker in one epoch: a job's attempt, a snapshot, a restore, a command.

    The Celery message carries only its id. The worker claims it over HTTPS and gets `work` with a fence; every later
    report must carry that fence. ref: what it is for, in the words of whoever asked (a snapshot's id, say; of a job, the
    checkpoint that this attempt goes on from). key: makes asking twice for the same thing find the first. slot: which of the worker's slots a job holds while it is open.
    finished_at: when the worker was known to be done with it; a withdrawn one without it may still be running there.
    counted: it is part of its worker's `taken`; the dispatcher's next run takes what has ended off again.
    log_bytes: of its output, as told; the first log_stored_bytes are in the store, and those from log_cut_from to
    log_cut_to were left out. files_gone_at: when its artifacts and its output were let go.
    late: what its worker reported after it was over, kept to be looked at and for nothing else: outcome, exit_code, reason,
    output_tail, output_bytes, at.
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
    counted = models.BooleanField(default=False, editable=False)
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
    log_stored_bytes = models.BigIntegerField(default=0, editable=False)
    log_cut_from = models.BigIntegerField(default=0, editable=False)
    log_cut_to = models.BigIntegerField(default=0, editable=False)
    files_gone_at = models.DateTimeField(null=True, blank=True, editable=False)
    late = models.JSONField(default=dict, blank=True, editable=False)

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
            models.Index(fields=["state", "worker"], condition=Q(counted=True), name="dispatch_counted"),
            models.Index(
                fields=["state_since"],
                condition=Q(log_bytes__gt=F("log_stored_bytes")),
                name="dispatch_log_unstored",
            ),
            models.Index(
                fields=["state_since"],
                condition=Q(kind="job", files_gone_at__isnull=True),
                name="dispatch_files_kept",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    @property
    def late_or_none(self) -> dict[str, Any] | None:
        """`late`, where there was anything."""
        return self.late or None

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
