"""How a job's checkpoints, and what came too late from its attempts, are asked for and shown."""

from __future__ import annotations

import math
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from pool.services.job_spec import CHECKPOINT_USUAL_S
from snapshots.models import Snapshot

CHECKPOINTS_SHOWN = 10


@extend_schema_field(
    {
        "oneOf": [
            {"type": "boolean"},
            {
                "type": "object",
                "properties": {"every_minutes": {"type": "number", "default": CHECKPOINT_USUAL_S / 60}},
                "additionalProperties": False,
            },
        ],
        "nullable": True,
    }
)
class CheckpointField(serializers.Field):
    """true, {"every_minutes": 10}, or false and null for none; kept as seconds."""

    def to_internal_value(self, data: Any) -> float | None:
        if isinstance(data, bool):
            return CHECKPOINT_USUAL_S if data else None
        if not isinstance(data, dict) or set(data) - {"every_minutes"}:
            raise serializers.ValidationError('write true, or {"every_minutes": 10}')
        minutes = data.get("every_minutes", CHECKPOINT_USUAL_S / 60)
        if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not math.isfinite(minutes):
            raise serializers.ValidationError("every_minutes must be a number")
        return 60.0 * minutes

    def to_representation(self, every_s: float) -> dict[str, float]:
        return {"every_minutes": every_s / 60}


class JobCheckpointSerializer(serializers.ModelSerializer):
    """A generation of the job's working directory. attempt: which one took it. What is in it: /api/snapshots/{id}/files."""

    attempt = serializers.IntegerField(source="epoch")
    status = serializers.CharField(source="state")
    reason = serializers.CharField()

    class Meta:
        model = Snapshot
        fields = [
            "id",
            "generation",
            "attempt",
            "status",
            "reason",
            "files",
            "logical_bytes",
            "stored_bytes",
            "warnings",
            "started_at",
            "committed_at",
            "verified_at",
        ]
        read_only_fields = fields


class LateSerializer(serializers.Serializer):
    """A result that came when the attempt was over: kept to be looked at, and of no consequence."""

    at = serializers.DateTimeField()
    outcome = serializers.CharField()
    exit_code = serializers.IntegerField(allow_null=True)
    reason = serializers.CharField(allow_blank=True)
    output_tail = serializers.CharField(allow_blank=True, help_text="the last of what it wrote")
    output_bytes = serializers.IntegerField(allow_null=True, help_text="how much it wrote in all")
