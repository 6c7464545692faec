"""Rows that every app stands on: events, chains, locks, ticks, API tokens, alerts."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext

from core.alerts.states import ALERT, AlertState
from core.chain_states import CHAIN, ChainState
from core.ids import new_id
from core.reasons import Reason, words
from core.states import StateTable


def chain_id() -> str:
    return new_id("c")


def alert_id() -> str:
    return new_id("al")


class WithReason(models.Model):
    """A row that says why: a reason's code and parameters, worded when shown."""

    reason_code = models.CharField(max_length=64, blank=True, default="")
    reason_params = models.JSONField(blank=True, default=dict)

    class Meta:
        abstract = True

    @property
    def reason(self) -> str:
        """The reason in the reader's language; empty where there is none."""
        return words(self.reason_code, self.reason_params, translate=gettext) if self.reason_code else ""

    @staticmethod
    def reason_columns(reason: Reason) -> dict[str, Any]:
        """The two columns for a reason, for an UPDATE."""
        return {"reason_code": reason.code, "reason_params": dict(reason.params)}


class Stateful(WithReason):
    """A row whose `state` moves only along its table's edges, through `core.transitions.advance`.

    FENCE names the column that counts its lives (epoch, attempt); a stale copy carries an old one and is refused.
    SUBJECT is what its events call it.
    """

    TABLE: ClassVar[StateTable]
    SUBJECT: ClassVar[str]
    FENCE: ClassVar[str | None] = None
    EVENT_COLUMNS: ClassVar[tuple[str, ...]] = ()
    """What event_owner_id and event_data read."""

    state = models.CharField(max_length=24)
    state_since = models.DateTimeField(default=timezone.now)
    state_deadline = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self._state.adding and self.state_deadline is None:
            self.state_deadline = self.TABLE.deadline(self.state, now=self.state_since)
        super().save(*args, **kwargs)

    def event_owner_id(self) -> int | None:
        """Whose events these are: the person who may read them."""
        return getattr(self, "owner_id", None)

    def event_data(self) -> dict[str, Any]:
        """Facts of the row that belong on each of its events."""
        return {}


class Event(WithReason):
    """Something that happened, once and for ever. Written in the transaction that made it happen."""

    at = models.DateTimeField(default=timezone.now)
    subject_type = models.CharField(max_length=16)
    subject_id = models.CharField(max_length=40)
    code = models.CharField(max_length=40)
    from_state = models.CharField(max_length=24, blank=True, default="")
    to_state = models.CharField(max_length=24, blank=True, default="")
    by = models.CharField(
        max_length=150, blank=True, default="", help_text="the person, or empty: the system"
    )
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    data = models.JSONField(blank=True, default=dict)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["subject_type", "subject_id", "-id"], name="event_subject"),
            models.Index(fields=["owner", "-id"], name="event_owner"),
            models.Index(fields=["-at"], name="event_at"),
        ]

    def __str__(self) -> str:
        return f"{self.subject_type} {self.subject_id} {self.code}"


class Chain(Stateful):
    """A durable sequence of steps. The row is the truth; the Celery message that carries its id is a doorbell."""

    TABLE = CHAIN
    SUBJECT = "chain"

    id = models.CharField(primary_key=True, max_length=24, default=chain_id, editable=False)
    kind = models.CharField(max_length=24)
    subject_type = models.CharField(max_length=16)
    subject_id = models.CharField(max_length=40)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    by = models.CharField(max_length=150, blank=True, default="")
    step = models.CharField(max_length=24)
    step_since = models.DateTimeField(default=timezone.now)
    attempts = models.PositiveIntegerField(default=0, help_text="of this step, failed ones in a row")
    runs = models.PositiveIntegerField(default=0, help_text="how often this step was entered by a worker")
    fence = models.PositiveIntegerField(default=0)
    lease_until = models.DateTimeField(null=True, blank=True)
    next_at = models.DateTimeField(null=True, blank=True)
    data = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["subject_type", "subject_id"],
                condition=Q(state=ChainState.ACTIVE),
                name="chain_one_active_per_subject",
            ),
            models.CheckConstraint(
                condition=Q(state=ChainState.ACTIVE, next_at__isnull=False)
                | (~Q(state=ChainState.ACTIVE) & Q(next_at__isnull=True)),
                name="chain_active_is_always_due_some_time",
            ),
        ]
        indexes = [
            models.Index(fields=["next_at"], condition=Q(state=ChainState.ACTIVE), name="chain_due"),
            models.Index(fields=["subject_type", "subject_id", "-created_at"], name="chain_subject"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject_id} {self.step}"

    def event_data(self) -> dict[str, Any]:
        return {"kind": self.kind, "subject": f"{self.subject_type} {self.subject_id}", "step": self.step}


class ChainStep(WithReason):
    """One step's passage through a chain: what the timeline shows."""

    chain = models.ForeignKey(Chain, on_delete=models.CASCADE, related_name="steps")
    step = models.CharField(max_length=24)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField()
    runs = models.PositiveIntegerField(default=0)
    outcome = models.CharField(max_length=16)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.chain_id} {self.step} {self.outcome}"


class Lease(models.Model):
    """Who may do a thing that only one process may do, and until when."""

    name = models.CharField(primary_key=True, max_length=40)
    holder = models.CharField(max_length=120)
    until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name}: {self.holder}"


class TickRun(models.Model):
    """When a tick last ran: readiness, and how long this control plane itself was away."""

    name = models.CharField(primary_key=True, max_length=64)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    resumed_at = models.DateTimeField(help_text="since when it has run without a gap")

    def __str__(self) -> str:
        return self.name


class Cursor(models.Model):
    """How far a stream has been read. Moved in the transaction that stores what was read."""

    name = models.CharField(primary_key=True, max_length=40)
    value = models.CharField(max_length=64, default="0-0")

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


class ApiToken(models.Model):
    """A person's token for the API and the command line. Only its hash is kept."""

    SCOPES = ("read", "operate", "admin")

    id = models.BigAutoField(primary_key=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=80)
    prefix = models.CharField(max_length=12, help_text="first characters, to tell tokens apart")
    sha256 = models.CharField(max_length=64, unique=True, editable=False)
    scopes = models.JSONField(default=list)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(expires_at__gt=F("created_at")), name="api_token_expires_after_birth"
            )
        ]

    def __str__(self) -> str:
        return f"{self.prefix}… {self.name}"

    def valid(self, *, now: datetime) -> bool:
        return self.revoked_at is None and self.expires_at > now


class Alert(Stateful):
    """Something that a person should know. One stands for each cause and subject; it resolves when its cause has gone.

    cause and params: the sentence, as it was when the alert was opened. owner: whose business it is besides the site's.
    """

    TABLE = ALERT
    SUBJECT = "alert"

    SEVERITIES = (("info", "info"), ("warning", "warning"), ("critical", "critical"))

    id = models.CharField(primary_key=True, max_length=24, default=alert_id, editable=False)
    cause = models.CharField(max_length=40)
    params = models.JSONField(default=dict, blank=True)
    severity = models.CharField(max_length=8, choices=SEVERITIES)
    subject_type = models.CharField(max_length=16)
    subject_id = models.CharField(max_length=80)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="alerts"
    )
    opened_at = models.DateTimeField(default=timezone.now)
    acknowledged_at = models.DateTimeField(null=True, blank=True)
    acknowledged_by = models.CharField(max_length=150, blank=True, default="")
    resolved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-opened_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["cause", "subject_type", "subject_id"],
                condition=Q(resolved_at__isnull=True),
                name="alert_one_standing_per_cause_and_subject",
            ),
            models.CheckConstraint(
                condition=Q(state=AlertState.RESOLVED, resolved_at__isnull=False)
                | (~Q(state=AlertState.RESOLVED) & Q(resolved_at__isnull=True)),
                name="alert_stands_until_it_is_resolved",
            ),
            models.CheckConstraint(
                condition=~Q(state=AlertState.ACKNOWLEDGED)
                | (Q(acknowledged_at__isnull=False) & ~Q(acknowledged_by="")),
                name="alert_acknowledged_by_somebody",
            ),
        ]
        indexes = [
            models.Index(fields=["-opened_at"], name="alert_opened"),
            models.Index(fields=["owner", "-opened_at"], name="alert_owner"),
            models.Index(fields=["resolved_at"], name="alert_resolved"),
        ]

    def __str__(self) -> str:
        return f"{self.cause} {self.subject_type} {self.subject_id}"

    @property
    def message(self) -> str:
        """What is wrong, in the reader's language."""
        return words(self.cause, self.params, translate=gettext)

    def event_data(self) -> dict[str, Any]:
        return {"cause": self.cause, "subject": f"{self.subject_type} {self.subject_id}"}


class AlertDelivery(models.Model):
    """An alert's way to one recipient on one channel: there is exactly one, and it is tried until it is settled.

    target: an e-mail address, or what names a webhook of the settings without its secrets. next_at: when it is tried
    next, null once it was sent or given up. claim and lease_until: who is trying, and until when that counts.
    """

    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.CharField(max_length=12)
    target = models.CharField(max_length=254)
    next_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    claim = models.CharField(max_length=32, blank=True, default="", editable=False)
    lease_until = models.DateTimeField(null=True, blank=True)
    sent_at = models.DateTimeField(null=True, blank=True)
    given_up_at = models.DateTimeField(null=True, blank=True)
    error = models.CharField(max_length=300, blank=True, default="")

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "alert deliveries"
        constraints = [
            models.UniqueConstraint(
                fields=["alert", "channel", "target"], name="alert_delivery_one_per_recipient"
            ),
            models.CheckConstraint(
                condition=Q(next_at__isnull=False, sent_at__isnull=True, given_up_at__isnull=True)
                | Q(next_at__isnull=True, sent_at__isnull=False, given_up_at__isnull=True)
                | Q(next_at__isnull=True, sent_at__isnull=True, given_up_at__isnull=False),
                name="alert_delivery_is_due_sent_or_given_up",
            ),
        ]
        indexes = [
            models.Index(fields=["next_at"], condition=Q(next_at__isnull=False), name="alert_delivery_due"),
            models.Index(fields=["claim"], condition=~Q(claim=""), name="alert_delivery_claim"),
        ]

    def __str__(self) -> str:
        return f"{self.alert_id} by {self.channel} to {self.target}"


class AlertPreference(models.Model):
    """What a person wants to be mailed of her own alerts. Without a row: warnings and worse."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, primary_key=True, on_delete=models.CASCADE, related_name="alert_preference"
    )
    email = models.BooleanField(default=True)
    least_severity = models.CharField(max_length=8, choices=Alert.SEVERITIES, default="warning")

    def __str__(self) -> str:
        return f"{self.user_id}: {self.least_severity if self.email else 'no mail'}"
