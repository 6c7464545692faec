"""What a job runs. An array's jobs share one copy of it, whatever their number."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from core.ids import new_id


def array_id() -> str:
    return new_id("ja")


class Work(models.Model):
    """The command or script with its environment, where it starts, and which files it leaves that are to be kept.

    workdir: relative to the job's work folder, or on an instance to the workspace; paths of files and artifacts are
    relative to it. artifacts: globs as agent.wire.glob_matches reads them.
    """

    command = models.JSONField(default=list, blank=True, help_text=_("argument list; or use script"))
    script = models.TextField(blank=True, default="")
    env = models.JSONField(default=dict, blank=True)
    workdir = models.CharField(max_length=400, blank=True, default="")
    artifacts = models.JSONField(default=list, blank=True, help_text=_("globs of files to keep"))
    file_count = models.PositiveSmallIntegerField(default=0, help_text=_("files that it is given"))
    after = models.JSONField(default=list, blank=True, help_text=_("jobs and arrays that it comes after"))

    class Meta:
        abstract = True


class JobArray(Work):
    """Jobs that one request asked for and that run the same, each with its index from 0 to count - 1."""

    id = models.CharField(primary_key=True, max_length=24, default=array_id, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    name = models.CharField(max_length=120)
    count = models.PositiveIntegerField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["owner", "-created_at"], name="job_array_owner")]

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"
