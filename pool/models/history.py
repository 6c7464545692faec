"""What is kept of use for longer than the readings themselves: hours by day, utilisation by minute and by hour."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class WorkerDay(models.Model):
    """Seconds of session runtime that a worker reported for one day (UTC). Its account's are the sum over its workers."""

    worker = models.ForeignKey("pool.Worker", on_delete=models.CASCADE, related_name="days")
    day = models.DateField()
    used_s = models.FloatField(default=0)

    class Meta:
        ordering = ["-day"]
        constraints = [models.UniqueConstraint(fields=["worker", "day"], name="worker_day")]
        indexes = [models.Index(fields=["day"], name="worker_day_day")]

    def __str__(self) -> str:
        return f"{self.worker_id} {self.day}"


class UtilisationBucket(models.Model):
    """A worker's readings of one stretch of time, added up. at: its beginning.

    samples: how many there were; known: how many of those said how busy the GPU was. util_sum and util_max are percent.
    """

    worker = models.ForeignKey("pool.Worker", on_delete=models.CASCADE, related_name="+")
    at = models.DateTimeField()
    samples = models.PositiveIntegerField(default=0)
    known = models.PositiveIntegerField(default=0)
    util_sum = models.FloatField(default=0, help_text=_("of the readings that are known"))
    util_max = models.FloatField(null=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.worker_id} {self.at:%Y-%m-%d %H:%M}"

    @property
    def gpu_util(self) -> float | None:
        """The mean, in percent; None where no reading was known."""
        return self.util_sum / self.known if self.known else None


class UtilisationMinute(UtilisationBucket):
    """Utilisation by minute, for a week."""

    class Meta:
        constraints = [models.UniqueConstraint(fields=["worker", "at"], name="utilisation_minute")]


class UtilisationHour(UtilisationBucket):
    """Utilisation by hour, for a year."""

    class Meta:
        constraints = [models.UniqueConstraint(fields=["worker", "at"], name="utilisation_hour")]
