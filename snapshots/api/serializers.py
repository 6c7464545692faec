"""What the snapshot routes read and answer."""

from __future__ import annotations

from rest_framework import serializers

from agent import wire
from snapshots.models import Snapshot

BIG = 2**63 - 1


class SnapshotSerializer(serializers.ModelSerializer):
    status = serializers.CharField(source="state")
    reason = serializers.CharField()
    workspace = serializers.CharField(source="workspace_ref", help_text="an instance's id, or a job's")

    class Meta:
        model = Snapshot
        fields = [
            "id",
            "workspace",
            "generation",
            "epoch",
            "status",
            "reason",
            "files",
            "logical_bytes",
            "stored_bytes",
            "content_id",
            "warnings",
            "pinned",
            "started_at",
            "committed_at",
            "verified_at",
            "checked_at",
        ]
        read_only_fields = fields


class FileSerializer(serializers.Serializer):
    path = serializers.CharField(help_text="undecodable bytes as \\xNN")
    kind = serializers.CharField()
    mode = serializers.CharField(help_text="octal")
    size = serializers.IntegerField()
    mtime_ns = serializers.IntegerField()


class PutWishSerializer(serializers.Serializer):
    key = serializers.CharField(max_length=200)
    length = serializers.IntegerField(min_value=1, max_value=BIG)
    sha256 = serializers.RegexField(r"^[0-9a-f]{64}$")


class PlanSerializer(serializers.Serializer):
    """put and get together: at most wire.REQUESTS_PER_PLAN."""

    fence = serializers.IntegerField(required=False)
    put = PutWishSerializer(many=True, required=False, default=list, max_length=wire.REQUESTS_PER_PLAN)
    get = serializers.ListField(
        child=serializers.CharField(max_length=200),
        required=False,
        default=list,
        max_length=wire.REQUESTS_PER_PLAN,
    )


class PresignedSerializer(serializers.Serializer):
    method = serializers.CharField()
    url = serializers.CharField()
    headers = serializers.DictField(child=serializers.CharField())


class PlannedSerializer(serializers.Serializer):
    terms = serializers.DictField()
    put = PresignedSerializer(many=True)
    get = PresignedSerializer(many=True)


class CommitSerializer(serializers.Serializer):
    fence = serializers.IntegerField(required=False)
    root_key = serializers.CharField(max_length=200)
    root_sha256 = serializers.RegexField(r"^[0-9a-f]{64}$")
    root_length = serializers.IntegerField(min_value=1, max_value=BIG)
    content_id = serializers.RegexField(r"^[0-9a-f]{32,64}$")
    files = serializers.IntegerField(min_value=0, max_value=BIG)
    logical_bytes = serializers.IntegerField(min_value=0, max_value=BIG)
    stored_bytes = serializers.IntegerField(min_value=0, max_value=BIG)
    new_packs = serializers.IntegerField(min_value=0, max_value=BIG)
    warnings = serializers.ListField(
        child=serializers.CharField(max_length=8_192), required=False, default=list, max_length=1_000
    )


class DoneSerializer(serializers.Serializer):
    status = serializers.CharField()
