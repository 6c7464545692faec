"""Parts of a job as people send and read them: files, retries, arrays, warnings."""

from __future__ import annotations

import base64
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from pool.models import JobArray, JobFile
from pool.retry import BACKOFF_AT_MOST_S, Retry
from pool.services.job_spec import FileSpec


class ProblemSerializer(serializers.Serializer):
    """One thing about a request. field: which part of it."""

    field = serializers.CharField(allow_blank=True)
    code = serializers.CharField(help_text="for programs")
    message = serializers.CharField()
    hint = serializers.CharField(allow_blank=True, help_text="what to do")


# -- files ------------------------------------------------------------------------------------------


class SourceSerializer(serializers.Serializer):
    """A file that an earlier job leaves."""

    job = serializers.CharField(max_length=24)
    artifact = serializers.CharField(max_length=1024, trim_whitespace=False)


class FileSerializer(serializers.Serializer):
    """A file that the job finds where it starts. Its content is one of text, base64 (1 MiB in all) and from."""

    path = serializers.CharField(max_length=400, trim_whitespace=False)
    mode = serializers.RegexField(
        r"^0?[0-7]{3}\Z", required=False, default="644", help_text="octal: 644, 755"
    )
    text = serializers.CharField(required=False, allow_blank=True, trim_whitespace=False)
    base64 = serializers.CharField(required=False, allow_blank=True)

    def get_fields(self) -> dict[str, Any]:
        # `from` is no name that Python lets a class have.
        return {**super().get_fields(), "from": SourceSerializer(required=False)}

    def validate_base64(self, value: str) -> bytes:
        try:
            return base64.b64decode(value, validate=True)
        except ValueError as error:  # binascii.Error is one; letters beyond ASCII are another
            raise serializers.ValidationError("is not base64") from error

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if sum(name in attrs for name in ("text", "base64", "from")) != 1:
            raise serializers.ValidationError("give one of text, base64 and from")
        return attrs


def file_spec(fields: dict[str, Any]) -> FileSpec:
    """What FileSerializer has read."""
    source = fields.get("from", {})
    data = fields["text"].encode() if "text" in fields else fields.get("base64")
    return FileSpec(
        path=fields["path"],
        mode=int(fields["mode"], 8),
        data=data,
        source_job=source.get("job", ""),
        source_path=source.get("artifact", ""),
    )


class JobFileSerializer(serializers.ModelSerializer):
    """A file that a job is given. bytes: of one that came with the request; source: else where it is from."""

    mode = serializers.SerializerMethodField()
    bytes = serializers.IntegerField(source="length")
    source = serializers.SerializerMethodField()

    class Meta:
        model = JobFile
        fields = ["path", "mode", "bytes", "source"]
        read_only_fields = fields

    def get_mode(self, row: JobFile) -> str:
        return f"{row.mode:03o}"

    def get_source(self, row: JobFile) -> str:
        return f"{row.source_job_id}/{row.source_path}" if row.source_job_id else ""


# -- retries ----------------------------------------------------------------------------------------


@extend_schema_field(
    {"oneOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "string", "enum": ["any"]}]}
)
class ExitCodesField(serializers.Field):
    """A list of exit codes, or "any"."""

    def to_internal_value(self, data: Any) -> tuple[int, ...] | None:
        if data == "any":
            return None
        if not isinstance(data, list) or not all(type(code) is int for code in data):
            raise serializers.ValidationError('must be a list of exit codes, or "any"')
        return tuple(data[:256])

    def to_representation(self, value: Any) -> Any:
        return value


class RetrySerializer(serializers.Serializer):
    """When a job whose command failed is tried again. A timeout is no exit code, and a lost worker no failure."""

    exit_codes = ExitCodesField(required=False, default=None, help_text='a list, or "any"')
    max_retries = serializers.IntegerField(required=False, default=3)
    backoff_s = serializers.FloatField(required=False, default=10, max_value=BACKOFF_AT_MOST_S)
    backoff_factor = serializers.FloatField(required=False, default=2)
    max_backoff_s = serializers.FloatField(required=False, default=600, max_value=BACKOFF_AT_MOST_S)

    def validate(self, attrs: dict[str, Any]) -> Retry:
        return Retry(**attrs)


# -- arrays -----------------------------------------------------------------------------------------


class JobArraySerializer(serializers.ModelSerializer):
    """Jobs that one request asked for. statuses: how many are in which; GET /api/jobs?array=… lists them."""

    owner = serializers.CharField(source="owner.username")
    statuses = serializers.SerializerMethodField()

    class Meta:
        model = JobArray
        fields = ["id", "name", "owner", "count", "statuses", "workdir", "artifacts", "after", "created_at"]
        read_only_fields = fields

    def get_statuses(self, array: JobArray) -> dict[str, int]:
        return array.statuses


class CreatedArraySerializer(JobArraySerializer):
    warnings = ProblemSerializer(many=True)

    class Meta(JobArraySerializer.Meta):
        fields = [*JobArraySerializer.Meta.fields, "warnings"]
        read_only_fields = fields
