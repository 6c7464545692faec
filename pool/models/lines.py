"""The lines of the queue: what jobs have in common that wait for the same, and what they are told."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Value
from django.db.models.functions import Cast, Coalesce, Concat
from django.utils.translation import gettext

from core.models import WithReason
from core.reasons import words
from pool.reasons import remedy_of

LABELS_LIMIT = 1_400
"""Characters of a worker's or a job's labels together, packed: sixteen of the longest."""

NEED_KEY_LIMIT = 200 + LABELS_LIMIT


class Waiting(WithReason):
    """Why the queued jobs of one `need_key` wait: one row for all of them, written and removed by the dispatcher."""

    key = models.CharField(primary_key=True, max_length=NEED_KEY_LIMIT)
    judged_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"

    @property
    def remedy(self) -> str:
        """What would let them start, in the reader's language; empty where time alone does it."""
        code = remedy_of(self.reason_code)
        return words(code, self.reason_params, translate=gettext) if code else ""


def need_key() -> Concat:
    """Owner, priority and everything that a job asks for, as one text: jobs with the same wait for the same."""
    text = models.TextField()
    parts: list[Any] = []
    for name in (
        "owner_id",
        "priority",
        "gpu_mem_bytes",
        "provider",
        "expected_hours",
        "instance_ref",
        "labels",
    ):
        parts += [
            Coalesce(Cast(name, text), Value("", output_field=text)),
            Value("/", output_field=text),
        ]
    return Concat(*parts[:-1])
