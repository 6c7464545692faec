"""What belongs to a job: the jobs before it, the files that it is given, the request that made it."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from pool.models.jobs import Job
from pool.models.work import JobArray


class JobDependency(models.Model):
    """`job` starts after `on`. settled: `on` has ended in a way that lets it start, and that was seen."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="dependencies")
    on = models.ForeignKey(Job, on_delete=models.PROTECT, related_name="dependants")
    settled = models.BooleanField(default=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["job", "on"], name="job_dependency_once")]
        indexes = [
            models.Index(fields=["job"], condition=Q(settled=False), name="job_dependency_unsettled"),
        ]

    def __str__(self) -> str:
        return f"{self.job_id} after {self.on_id}"


class JobFile(models.Model):
    """A file that a job, or every job of an array, finds in its folder when it starts.

    Its bytes are in `data`, or are the artifact `source_path` of `source_job`'s last attempt, whatever that left.
    """

    job = models.ForeignKey(Job, null=True, on_delete=models.CASCADE, related_name="files")
    array = models.ForeignKey(JobArray, null=True, on_delete=models.CASCADE, related_name="files")
    path = models.CharField(max_length=400)
    mode = models.PositiveSmallIntegerField(default=0o644)
    length = models.BigIntegerField(default=0)
    data = models.BinaryField(null=True)
    source_job = models.ForeignKey(Job, null=True, on_delete=models.PROTECT, related_name="+")
    source_path = models.CharField(max_length=1024, blank=True, default="")

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(job__isnull=True, array__isnull=False) | Q(job__isnull=False, array__isnull=True),
                name="job_file_of_a_job_or_an_array",
            ),
            models.CheckConstraint(
                condition=Q(data__isnull=True, source_job__isnull=False)
                | Q(data__isnull=False, source_job__isnull=True),
                name="job_file_has_one_source",
            ),
        ]

    def __str__(self) -> str:
        return self.path


class Submission(models.Model):
    """A request that carried an Idempotency-Key, and what it made: the same one again finds it."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=200)
    body_sha256 = models.CharField(max_length=64)
    job = models.ForeignKey(Job, null=True, on_delete=models.CASCADE, related_name="+")
    array = models.ForeignKey(JobArray, null=True, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["owner", "key"], name="submission_key_once")]

    def __str__(self) -> str:
        return self.key
