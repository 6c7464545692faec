"""What the pool knows of its accounts' providers: acknowledged terms, official quotas, sessions that it starts itself."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from core.ids import new_id
from core.models import Stateful
from pool.states import START, StartState

STARTS_OPEN = [StartState.PUSHING, StartState.QUEUED, StartState.RUNNING]


def start_id() -> str:
    return new_id("ns")


class TermsAcknowledgement(models.Model):
    """Somebody has read what the provider forbids: who, when, which version, and for whom. Written once, kept for ever.

    owner: the account's at that time; an account that changes hands is asked for anew. The record outlives its account:
    label is what that was called.
    """

    account = models.ForeignKey(
        "pool.Account", null=True, on_delete=models.SET_NULL, related_name="acknowledgements"
    )
    label = models.CharField(max_length=100)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    version = models.CharField(max_length=20)
    by = models.CharField(max_length=150)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["account", "owner", "version"], name="terms_acknowledged_once")
        ]

    def __str__(self) -> str:
        return f"{self.label} {self.version} by {self.by}"


class OfficialQuota(models.Model):
    """What the provider itself last said of an account's week, in seconds of GPU time; null: it did not say.

    read_at: when it last answered; tried_at: when it was last asked; error: why there was no answer since, or empty.
    """

    account = models.OneToOneField(
        "pool.Account", on_delete=models.CASCADE, primary_key=True, related_name="official_quota"
    )
    used_s = models.FloatField(null=True)
    reserved_s = models.FloatField(null=True)
    total_s = models.FloatField(null=True)
    refresh_at = models.DateTimeField(null=True)
    read_at = models.DateTimeField(null=True)
    tried_at = models.DateTimeField()
    error = models.CharField(max_length=300, blank=True, default="")

    def __str__(self) -> str:
        return f"{self.account_id} as of {self.read_at}"


class NotebookStart(Stateful):
    """A notebook session that the control plane starts at the provider, with a worker's name and a one-use join token.

    slug: the notebook at the provider; one for each worker's name, a version a start. version_before: its version
    before this start, so that a push whose answer was lost is found again and never repeated. next_at: when to look.
    denied_since: since when the provider says nothing but that there is no such notebook, or that we may not know.
    """

    TABLE = START
    SUBJECT = "start"

    id = models.CharField(primary_key=True, max_length=24, default=start_id, editable=False)
    account = models.ForeignKey("pool.Account", on_delete=models.CASCADE, related_name="starts")
    name = models.CharField(max_length=80)
    slug = models.CharField(max_length=50)
    accelerator = models.CharField(max_length=40)
    token = models.ForeignKey(
        "pool.EnrollmentToken", null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    worker = models.ForeignKey(
        "pool.Worker", null=True, blank=True, on_delete=models.SET_NULL, related_name="starts"
    )
    version_before = models.PositiveIntegerField(null=True, blank=True)
    version = models.PositiveIntegerField(null=True, blank=True)
    denied_since = models.DateTimeField(null=True, blank=True)
    provider_owner = models.CharField(max_length=80, blank=True, default="")
    url = models.URLField(max_length=300, blank=True, default="")
    provider_status = models.CharField(max_length=24, blank=True, default="")
    output = models.TextField(blank=True, default="", help_text="the end of what the session printed")
    by = models.CharField(max_length=150, blank=True, default="")
    created_at = models.DateTimeField(default=timezone.now)
    next_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "slug"], condition=Q(state__in=STARTS_OPEN), name="start_one_open_per_slug"
            ),
            models.CheckConstraint(
                condition=Q(state__in=STARTS_OPEN, next_at__isnull=False)
                | (~Q(state__in=STARTS_OPEN) & Q(next_at__isnull=True)),
                name="start_open_is_always_due_some_time",
            ),
        ]
        indexes = [
            models.Index(fields=["next_at"], condition=Q(next_at__isnull=False), name="start_due"),
            models.Index(fields=["account", "-created_at"], name="start_account"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"

    def event_owner_id(self) -> int | None:
        return self.account.owner_id
