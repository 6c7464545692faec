"""What a worker answered when it was asked."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from core.models import WithReason


class Interrogation(WithReason):
    """The last question to a worker, and its last answer: one row a worker.

    way: by its health URL or by its doorbell. answer: the fields of GET /health, as far as they made sense; it stays
    when a later question remains unanswered, and answered_at says how old it is. open_until: while the question stands.
    asking_at: when a process began to ask the URL.
    The reason says what became of the last question. Nothing is decided on an answer's strength.
    """

    class Way(models.TextChoices):
        URL = "url"
        DOORBELL = "doorbell"

    worker = models.OneToOneField(
        "pool.Worker", primary_key=True, on_delete=models.CASCADE, related_name="interrogation"
    )
    epoch = models.PositiveIntegerField()
    way = models.CharField(max_length=8, choices=Way)
    asked_at = models.DateTimeField()
    asked_by = models.CharField(max_length=150, blank=True, default="", help_text="empty: the system")
    open_until = models.DateTimeField(null=True, blank=True)
    asking_at = models.DateTimeField(null=True, blank=True, editable=False)
    answered_at = models.DateTimeField(null=True, blank=True)
    answer = models.JSONField(default=dict, blank=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["open_until"], condition=Q(open_until__isnull=False), name="interrogation_open"
            )
        ]

    def __str__(self) -> str:
        return f"{self.worker_id} asked by {self.way}"

    @property
    def order_id(self) -> str:
        """Tells one question from the next, for an agent that answers each once."""
        return f"q{int(self.asked_at.timestamp() * 1000)}"
