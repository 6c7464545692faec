"""How a worker's last answer looks in the API."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from pool.models import Interrogation


class HealthSerializer(serializers.Serializer):
    """What the worker says of itself: the fields of its GET /health."""

    status = serializers.CharField()
    sessionRuntimeHours = serializers.FloatField(allow_null=True)
    maxSessionHours = serializers.FloatField(allow_null=True)
    utilizationPercentage = serializers.FloatField(allow_null=True)
    gpu = serializers.CharField(allow_null=True)
    provider = serializers.CharField(allow_null=True)
    timestamp = serializers.CharField(allow_null=True)


class InterrogationSerializer(serializers.ModelSerializer):
    """The last question to a worker and its last answer. open: the question still stands. age_s: of the answer."""

    open = serializers.SerializerMethodField()
    reason = serializers.CharField(help_text="what became of the last question")
    age_s = serializers.SerializerMethodField()
    answer = serializers.SerializerMethodField()

    class Meta:
        model = Interrogation
        fields = ["way", "asked_at", "asked_by", "open", "reason", "answered_at", "age_s", "answer"]
        read_only_fields = fields

    def get_open(self, row: Interrogation) -> bool:
        return row.open_until is not None

    def get_age_s(self, row: Interrogation) -> float | None:
        if row.answered_at is None:
            return None
        return round(max(0.0, (timezone.now() - row.answered_at).total_seconds()), 1)

    @extend_schema_field(HealthSerializer(allow_null=True))
    def get_answer(self, row: Interrogation) -> dict[str, Any] | None:
        return row.answer or None
