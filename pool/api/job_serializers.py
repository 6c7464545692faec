"""Parts of a job as people send and read them: files, retries, arrays, warnings."""

from __future__ import annotations

import base64
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from core.request_body import RequestBody
from pool.api.checkpoint_serializers import CheckpointField
from pool.models import Job, JobArray, JobFile
from pool.retry import BACKOFF_AT_MOST_S, Retry
from pool.services.job_spec import FileSpec, JobSpec


class ProblemSerializer(serializers.Serializer):
    """One thing about a request. field: which part of it."""

    field = serializers.CharField(allow_blank=True)
    code = serializers.CharField(help_text="for programs")
    message = serializers.CharField()
    hint = serializers.CharField(allow_blank=True, help_text="what to do")


# -- files ------------------------------------------------------------------------------------------


class SourceSerializer(RequestBody):
    """A file that an earlier job leaves."""

    job = serializers.CharField(max_length=24)
    artifact = serializers.CharField(max_length=1024, trim_whitespace=False)


class FileSerializer(RequestBody):
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


class RetrySerializer(RequestBody):
    """When a job whose command failed is tried again. A timeout is no exit code, and a lost worker no failure."""

    exit_codes = ExitCodesField(required=False, default=None, help_text='a list, or "any"')
    max_retries = serializers.IntegerField(required=False, default=3)
    backoff_s = serializers.FloatField(required=False, default=10, max_value=BACKOFF_AT_MOST_S)
    backoff_factor = serializers.FloatField(required=False, default=2)
    max_backoff_s = serializers.FloatField(required=False, default=600, max_value=BACKOFF_AT_MOST_S)

    def validate(self, attrs: dict[str, Any]) -> Retry:
        return Retry(**attrs)


# -- a request --------------------------------------------------------------------------------------


class JobSubmitSerializer(RequestBody):
    """What to run: a command (a list, no shell) or a script, and what it needs. Zero or empty: no constraint."""

    name = serializers.CharField(required=False, default="", allow_blank=True, max_length=120)
    command = serializers.ListField(
        child=serializers.CharField(allow_blank=True, trim_whitespace=False), required=False, default=list
    )
    script = serializers.CharField(required=False, default="", allow_blank=True, trim_whitespace=False)
    env = serializers.DictField(
        child=serializers.CharField(allow_blank=True, trim_whitespace=False), required=False, default=dict
    )
    timeout_s = serializers.FloatField(
        required=False,
        allow_null=True,
        default=None,
        help_text="counted from the start of its command, anew for each attempt",
    )
    grace_s = serializers.FloatField(required=False, default=15, help_text="between TERM and KILL")
    gpu_mem_bytes = serializers.IntegerField(required=False, default=0, help_text="per GPU")
    provider = serializers.CharField(required=False, default="", allow_blank=True)
    expected_hours = serializers.FloatField(required=False, allow_null=True, default=None)
    checkpoint = CheckpointField(
        required=False,
        allow_null=True,
        default=None,
        source="checkpoint_every_s",
        help_text="keep its working directory while it runs, and restore it before its next attempt",
    )
    instance = serializers.CharField(
        required=False,
        default="",
        allow_blank=True,
        source="instance_ref",
        help_text="run it on this instance only",
    )
    labels = serializers.DictField(
        child=serializers.CharField(max_length=40),
        required=False,
        default=dict,
        help_text="its worker must have all of them",
    )
    priority = serializers.IntegerField(required=False, default=0, help_text="higher runs first")
    max_attempts = serializers.IntegerField(
        required=False, default=5, help_text="how many attempts may end with their worker"
    )
    workdir = serializers.CharField(
        required=False,
        default="",
        allow_blank=True,
        trim_whitespace=False,
        help_text="folder in which it starts, relative to its own; files and artifacts are relative to it",
    )
    files = FileSerializer(many=True, required=False, default=list)
    artifacts = serializers.ListField(
        child=serializers.CharField(trim_whitespace=False),
        required=False,
        default=list,
        help_text="globs of the files that are kept when it has ended: out/**/*.pt, *.json",
    )
    retry = RetrySerializer(required=False, allow_null=True, default=None)
    after = serializers.ListField(
        child=serializers.CharField(max_length=24),
        required=False,
        default=list,
        help_text="ids of jobs and arrays that must have ended before",
    )
    after_policy = serializers.ChoiceField(
        choices=Job.After.choices,
        required=False,
        default=Job.After.SUCCEEDED.value,
        help_text="what they must have done; where that cannot come any more, this job is cancelled",
    )
    count = serializers.IntegerField(
        required=False,
        allow_null=True,
        default=None,
        help_text="an array of so many jobs, each with its index",
    )

    def spec(self) -> JobSpec:
        """What was read."""
        fields = self.validated_data
        return JobSpec(**{**fields, "files": [file_spec(file) for file in fields["files"]]})


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
