"""What a job's attempts leave in the object store: artifacts, and their whole output."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

from pool.models.dispatches import Dispatch


class JobObject(models.Model):
    """An object that an attempt was allowed to upload, or that its output was stored as: written down before it exists.

    What is removed is removed by these rows, so that nothing stays in the store that no row knows. doomed: nobody needs
    it any more; so it is without its dispatch.
    """

    dispatch = models.ForeignKey(
        Dispatch, null=True, on_delete=models.SET_NULL, related_name="objects_stored"
    )
    key = models.CharField(max_length=200, unique=True)
    length = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    planned_at = models.DateTimeField(default=timezone.now)
    doomed = models.BooleanField(default=False)

    class Meta:
        indexes = [
            models.Index(
                fields=["planned_at"], condition=Q(doomed=True) | Q(dispatch=None), name="job_object_doomed"
            )
        ]

    def __str__(self) -> str:
        return self.key


class Artifact(models.Model):
    """A file that an attempt left and that is kept. pieces: [[sha256, length], …], the objects that it consists of."""

    dispatch = models.ForeignKey(Dispatch, on_delete=models.CASCADE, related_name="artifacts")
    path = models.CharField(max_length=1024)
    mode = models.PositiveSmallIntegerField(default=0o644)
    length = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    pieces = models.JSONField(default=list)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["path"]
        constraints = [models.UniqueConstraint(fields=["dispatch", "path"], name="artifact_path_once")]

    def __str__(self) -> str:
        return self.path


class LogPart(models.Model):
    """`length` bytes of a dispatch's output from `offset` on, compressed in the store. chunks_gone: only there."""

    dispatch = models.ForeignKey(Dispatch, on_delete=models.CASCADE, related_name="log_parts")
    offset = models.BigIntegerField()
    length = models.BigIntegerField()
    key = models.CharField(max_length=200)
    stored_at = models.DateTimeField(default=timezone.now)
    chunks_gone = models.BooleanField(default=False)

    class Meta:
        ordering = ["offset"]
        constraints = [
            models.UniqueConstraint(fields=["dispatch", "offset"], name="log_part_offset"),
        ]
        indexes = [
            models.Index(fields=["stored_at"], condition=Q(chunks_gone=False), name="log_part_chunks"),
        ]

    def __str__(self) -> str:
        return f"{self.dispatch_id}@{self.offset}"
