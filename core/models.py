"""Rows that every app stands on: events, chains, locks, ticks, API tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext

from core.chain_states import CHAIN, ChainState
from core.ids import new_id
from core.reasons import Reason, words
from core.states import StateTable


def chain_id() -> str:
    return new_id("c")


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
