"""Jobs, and whose turn it is."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from core.ids import new_id
from core.models import Stateful
from core.reasons import words
from pool.models.lines import LABELS_LIMIT, NEED_KEY_LIMIT, Waiting, need_key
from pool.models.work import JobArray, Work
from pool.models.workers import Worker
from pool.reasons import remedy_of
from pool.states import JOB, JobState


def job_id() -> str:
    return new_id("j")


class Job(Stateful, Work):
    """A command to run somewhere. `attempt` counts its tries; a report from an older one changes nothing.

    What it runs is `work`: its own columns, or those of its array. labels: what its worker must have, as
    pool.labels.packed writes them. need_key: written by the database; jobs that have the same stand in one line and wait
    for the same reason, which is in `waiting`. retry: as pool.retry.Retry reads it; retries: how many of them were used;
    not_before: a deferred job is queued again then. has_dependants: jobs come after it that have not been told its end.
    checkpoint_every_s: how often its working directory is checkpointed while it runs, and restored by its next attempt;
    null: never (docs/design/checkpoints.md).
    """

    TABLE = JOB
    SUBJECT = "job"
    FENCE = "attempt"
    EVENT_COLUMNS = ("owner_id",)

    class After(models.TextChoices):
        """What the jobs before it must have done."""

        SUCCEEDED = "succeeded"
        ENDED = "ended"

    id = models.CharField(primary_key=True, max_length=24, default=job_id, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="jobs")
    name = models.CharField(max_length=120)
    array = models.ForeignKey(JobArray, null=True, blank=True, on_delete=models.CASCADE, related_name="jobs")
    array_index = models.PositiveIntegerField(null=True, blank=True)
    timeout_s = models.FloatField(
        null=True, blank=True, help_text=_("counted from the first start of each attempt")
    )
    grace_s = models.FloatField(default=15, help_text=_("between TERM and KILL"))
    checkpoint_every_s = models.FloatField(
        null=True, blank=True, help_text=_("how often its working directory is kept; empty: never")
    )
    gpu_mem_bytes = models.BigIntegerField(default=0, help_text=_("per GPU"))
    provider = models.CharField(max_length=12, blank=True, default="")
    expected_hours = models.FloatField(null=True, blank=True)
    instance_ref = models.CharField(
        max_length=40, blank=True, default="", help_text=_("run it on this instance only")
    )
    labels = models.CharField(max_length=LABELS_LIMIT, blank=True, default="", editable=False)
    priority = models.SmallIntegerField(default=0, help_text=_("higher runs first"))
    need_key = models.GeneratedField(
        expression=need_key(), output_field=models.CharField(max_length=NEED_KEY_LIMIT), db_persist=True
    )
    waiting = models.ForeignObject(
        Waiting,
        from_fields=["need_key"],
        to_fields=["key"],
        on_delete=models.DO_NOTHING,
        related_name="+",
        null=True,
        editable=False,
    )
    attempt = models.PositiveIntegerField(default=0)
    max_attempts = models.PositiveIntegerField(default=5, help_text=_("how many may end with their worker"))
    retry = models.JSONField(null=True, blank=True)
    retries = models.PositiveIntegerField(default=0)
    not_before = models.DateTimeField(null=True, blank=True, help_text=_("it is queued again then"))
    after_policy = models.CharField(max_length=12, choices=After, default=After.SUCCEEDED)
    has_dependants = models.BooleanField(default=False, editable=False)
    exit_code = models.IntegerField(null=True, blank=True)
    queued_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_by = models.CharField(max_length=150, blank=True, default="")

    class Meta:
        ordering = ["-queued_at"]
        constraints = [
            models.UniqueConstraint(fields=["array", "array_index"], name="job_array_index"),
            models.CheckConstraint(
                condition=Q(array__isnull=True, array_index__isnull=True)
                | Q(array__isnull=False, array_index__isnull=False),
                name="job_of_an_array_has_its_index",
            ),
        ]
        indexes = [
            models.Index(
                fields=["need_key", "queued_at", "id"], condition=Q(state=JobState.QUEUED), name="job_line"
            ),
            models.Index(
                fields=["owner"],
                condition=Q(state__in=(JobState.DISPATCHED, JobState.RUNNING)),
                name="job_placed",
            ),
            models.Index(fields=["owner", "-queued_at"], name="job_owner"),
            models.Index(
                fields=["not_before"],
                condition=Q(state=JobState.DEFERRED, not_before__isnull=False),
                name="job_not_before",
            ),
            models.Index(
                fields=["ended_at"],
                condition=Q(has_dependants=True, ended_at__isnull=False),
                name="job_untold_dependants",
            ),
            models.Index(
                fields=["ended_at"],
                condition=Q(checkpoint_every_s__isnull=False, ended_at__isnull=False),
                name="job_checkpoints_over",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"

    @property
    def work(self) -> Work:
        """What it runs."""
        return self if self.array is None else self.array

    @property
    def reason(self) -> str:
        """Why it is in its state; of a queued one that could not be placed, what it waits for."""
        row = self._waits()
        return row.reason if row is not None else super().reason

    @property
    def remedy(self) -> str:
        """What would let a waiting job start, in the reader's language; empty where nothing keeps it."""
        row = self._waits()
        if row is not None:
            return row.remedy
        code = remedy_of(self.reason_code) if self.state == JobState.DEFERRED else ""
        return words(code, self.reason_params, translate=gettext) if code else ""

    def refresh_from_db(self, *args: Any, **kwargs: Any) -> None:
        super().refresh_from_db(*args, **kwargs)
        self._state.fields_cache.pop("waiting", None)

    def _waits(self) -> Waiting | None:
        try:
            return self.waiting if self.state == JobState.QUEUED else None
        except Waiting.DoesNotExist:
            return None


class Choice(models.Model):
    """When a tenant was last given a worker: what round robin turns on."""

    tenant = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    worker = models.ForeignKey(Worker, on_delete=models.CASCADE, related_name="+")
    chosen_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "worker"], name="choice_tenant_worker")]
        indexes = [models.Index(fields=["tenant", "chosen_at"], name="choice_turn")]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.worker_id}"
