"""What the pool's routes for people read and answer."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from core.request_body import RequestBody
from pool.api.checkpoint_serializers import (
    CHECKPOINTS_SHOWN,
    CheckpointField,
    JobCheckpointSerializer,
    LateSerializer,
)
from pool.api.interrogation_serializer import InterrogationSerializer
from pool.api.job_serializers import (
    JobFileSerializer,
    ProblemSerializer,
)
from pool.labels import unpacked
from pool.models import Account, Dispatch, Job, OfficialQuota, Worker
from pool.quota import Reading
from pool.selectors_jobs import files_of
from pool.services.accounts import credentials_hint
from pool.services.checkpoints import checkpoints_of
from pool.services.terms import terms_acknowledgement, terms_of


class QuotaSerializer(serializers.Serializer):
    """How much of its quota a worker has used. hours_left: until its session or week ends; null: no limit."""

    model = serializers.ChoiceField(choices=["none", "session", "week", "money"])
    used = serializers.FloatField(help_text="hours; USD for money")
    limit = serializers.FloatField(allow_null=True)
    percent = serializers.FloatField()
    safe = serializers.BooleanField()
    hours_left = serializers.FloatField(source="left_h", allow_null=True)
    estimated_hours = serializers.FloatField(
        source="estimated_h", help_text="hours of `used` that no report has proven: its machine is silent"
    )
    reason = serializers.SerializerMethodField(help_text="the figures, or why it is avoided")

    def get_reason(self, reading: Reading) -> str:
        return reading.figures() if reading.safe else str(reading.why_unsafe())


class SessionSerializer(serializers.Serializer):
    """The present run of a worker's machine."""

    started_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    runtime_hours = serializers.SerializerMethodField()

    def get_runtime_hours(self, session: Any) -> float:
        return round(session.runtime_s / 3600, 4)


class WorkerAccountSerializer(serializers.ModelSerializer):
    """The account that a worker counts against."""

    class Meta:
        model = Account
        fields = ["id", "kind", "label"]
        read_only_fields = fields


class LabelsField(serializers.DictField):
    """Labels as {"key": "value"}; stored as one text."""

    child = serializers.CharField(max_length=40)

    def to_representation(self, value: str) -> dict[str, str]:
        return unpacked(value)


class LabelsSerializer(RequestBody):
    labels = LabelsField(help_text="all that it is to have: those that are left out are taken away")


class WorkerSerializer(serializers.ModelSerializer):
    """A worker. busy: how many of its slots hold a job. owner: whose alone it is; null: the shared pool's."""

    status = serializers.CharField(source="state")
    reason = serializers.CharField(help_text="why it is in its state")
    provider = serializers.CharField(source="account.kind")
    account = WorkerAccountSerializer()
    owner = serializers.CharField(source="owner.username", allow_null=True, default=None)
    instance = serializers.CharField(source="instance_ref", help_text="the rented instance whose box it is")
    busy = serializers.IntegerField(source="shown.taken")
    quota = QuotaSerializer(source="shown.reading")
    session = SessionSerializer(source="shown.session", allow_null=True)
    interrogation = InterrogationSerializer(allow_null=True, default=None)
    labels = LabelsField()

    class Meta:
        model = Worker
        fields = [
            "id",
            "name",
            "status",
            "reason",
            "state_since",
            "provider",
            "account",
            "owner",
            "instance",
            "epoch",
            "slots",
            "busy",
            "quota",
            "session",
            "interrogation",
            "labels",
            "gpu_name",
            "gpu_count",
            "gpu_mem_bytes",
            "gpu_util",
            "last_seen_at",
            "check_interval_s",
            "agent_version",
            "platform",
            "created_at",
        ]
        read_only_fields = fields


class NoteSerializer(RequestBody):
    note = serializers.CharField(
        required=False, allow_blank=True, default="", max_length=200, help_text="why, for the record"
    )


class EnrollmentTokenSerializer(RequestBody):
    account = serializers.CharField(help_text="id of one of your accounts")
    uses = serializers.IntegerField(
        default=1, min_value=1, max_value=1000, help_text="machines that may join with it"
    )
    life_minutes = serializers.FloatField(default=60, min_value=1, max_value=60 * 24 * 30)


class IssuedTokenSerializer(serializers.Serializer):
    """A join token: shown once, here."""

    token = serializers.CharField()
    expires_at = serializers.DateTimeField()
    command = serializers.CharField(help_text="what to run on the machine")


class TermsSerializer(serializers.Serializer):
    """What the account's provider forbids, and who has acknowledged that text. Until then it enrols no worker."""

    version = serializers.CharField()
    sentences = serializers.ListField(child=serializers.CharField())
    source = serializers.URLField()
    acknowledged_by = serializers.CharField(allow_null=True)
    acknowledged_at = serializers.DateTimeField(allow_null=True)


class OfficialQuotaSerializer(serializers.Serializer):
    """What the provider itself last said of the account's week, in hours. null: it did not say."""

    used_hours = serializers.SerializerMethodField()
    reserved_hours = serializers.SerializerMethodField(help_text="for sessions that run")
    total_hours = serializers.SerializerMethodField()
    refresh_at = serializers.DateTimeField(allow_null=True)
    read_at = serializers.DateTimeField(allow_null=True, help_text="when it said so")
    error = serializers.CharField(allow_blank=True, help_text="why it has not answered since")

    def get_used_hours(self, row: OfficialQuota) -> float | None:
        return _hours(row.used_s)

    def get_reserved_hours(self, row: OfficialQuota) -> float | None:
        return _hours(row.reserved_s)

    def get_total_hours(self, row: OfficialQuota) -> float | None:
        return _hours(row.total_s)


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds / 3600, 4)


class AccountSerializer(RequestBody, serializers.ModelSerializer):
    """A provider account. Limits that are not given are the defaults of its kind; credentials are never shown."""

    owner = serializers.CharField(source="owner.username", read_only=True)
    credentials = serializers.DictField(
        child=serializers.CharField(trim_whitespace=False),
        write_only=True,
        required=False,
        help_text="encrypted at rest, never shown again; {} forgets them",
    )
    credentials_state = serializers.SerializerMethodField(help_text="whether they are set, and how they end")
    official_quota = serializers.SerializerMethodField(help_text="null: it was never asked, or cannot be")
    terms = serializers.SerializerMethodField(help_text="null: its kind has none")
    acknowledged_terms = serializers.CharField(
        write_only=True,
        required=False,
        max_length=20,
        help_text="the version of `terms` that you have read for this account; recorded with your name",
    )

    class Meta:
        model = Account
        fields = [
            "id",
            "owner",
            "kind",
            "label",
            "enabled",
            "credentials",
            "credentials_state",
            "terms",
            "acknowledged_terms",
            "official_quota",
            "session_limit_h",
            "session_shutdown_h",
            "weekly_limit_h",
            "safe_percent",
            "reset_weekday",
            "reset_hour",
            "reset_zone",
            "budget_usd_per_day",
            "budget_usd_per_month",
            "price_cap_usd_per_h",
            "check_interval_s",
            "created_at",
        ]
        read_only_fields = ["id", "created_at"]

    def get_credentials_state(self, account: Account) -> str:
        return credentials_hint(account)

    @extend_schema_field(OfficialQuotaSerializer(allow_null=True))
    def get_official_quota(self, account: Account) -> dict[str, Any] | None:
        row = getattr(account, "official_quota", None)
        return dict(OfficialQuotaSerializer(row).data) if row and (row.read_at or row.error) else None

    @extend_schema_field(TermsSerializer(allow_null=True))
    def get_terms(self, account: Account) -> dict[str, Any] | None:
        terms = terms_of(account)
        if terms is None:
            return None
        row = terms_acknowledgement(account)
        said = {"acknowledged_by": row and row.by, "acknowledged_at": row and row.at}
        shown = {"version": terms.version, "sentences": terms.sentences, "source": terms.source, **said}
        return dict(TermsSerializer(shown).data)

    def validate_kind(self, kind: str) -> str:
        if self.instance is not None and kind != self.instance.kind:
            raise serializers.ValidationError("an account stays of its kind: make another one")
        return kind


class JobWorkerSerializer(serializers.ModelSerializer):
    """The worker of a job's latest attempt."""

    provider = serializers.CharField(source="account.kind")

    class Meta:
        model = Worker
        fields = ["id", "name", "provider"]
        read_only_fields = fields


class AttemptSerializer(serializers.ModelSerializer):
    """One try of a job on one worker. late: what it reported after it was over, which changed nothing."""

    status = serializers.CharField(source="state")
    reason = serializers.CharField()
    worker = JobWorkerSerializer()
    restored_from = serializers.CharField(source="ref", help_text="the checkpoint that it went on from")
    progress = serializers.DictField(help_text="of its files and its checkpoint, on their way")
    late = LateSerializer(allow_null=True, source="late_or_none")

    class Meta:
        model = Dispatch
        fields = [
            "number",
            "status",
            "reason",
            "worker",
            "claimed_at",
            "finished_at",
            "exit_code",
            "log_bytes",
            "restored_from",
            "progress",
            "late",
        ]
        read_only_fields = fields


class JobSerializer(serializers.ModelSerializer):
    """A job. reason: why it waits, or what became of it; remedy: what would let a waiting one start."""

    status = serializers.CharField(source="state")
    reason = serializers.CharField()
    owner = serializers.CharField(source="owner.username")
    remedy = serializers.CharField()
    instance = serializers.CharField(source="instance_ref")
    labels = LabelsField()
    workdir = serializers.CharField(source="work.workdir")
    queued_until = serializers.DateTimeField(
        source="not_before", allow_null=True, help_text="a job that is tried again waits until then"
    )
    array = serializers.CharField(source="array_id", allow_null=True)
    checkpoint = CheckpointField(source="checkpoint_every_s", allow_null=True)
    worker = serializers.SerializerMethodField()

    class Meta:
        model = Job
        fields = [
            "id",
            "name",
            "status",
            "reason",
            "remedy",
            "owner",
            "workdir",
            "timeout_s",
            "grace_s",
            "gpu_mem_bytes",
            "provider",
            "expected_hours",
            "checkpoint",
            "instance",
            "labels",
            "priority",
            "attempt",
            "max_attempts",
            "retries",
            "queued_until",
            "array",
            "array_index",
            "worker",
            "exit_code",
            "queued_at",
            "started_at",
            "ended_at",
            "cancel_requested_at",
        ]
        read_only_fields = fields

    @extend_schema_field(JobWorkerSerializer(allow_null=True))
    def get_worker(self, job: Job) -> dict[str, Any] | None:
        attempts = list(job.attempts.all())  # prefetched, in order
        return JobWorkerSerializer(attempts[-1].worker).data if attempts else None


class JobDetailSerializer(JobSerializer):
    """One job whole. env_names: its environment's values are not shown; after: what it comes after, as submitted;
    artifacts: the globs of what is kept."""

    command = serializers.ListField(child=serializers.CharField(), source="work.command")
    script = serializers.CharField(source="work.script")
    env_names = serializers.SerializerMethodField()
    after = serializers.ListField(child=serializers.CharField(), source="work.after")
    artifacts = serializers.ListField(child=serializers.CharField(), source="work.artifacts")
    files = serializers.SerializerMethodField()
    attempts = AttemptSerializer(many=True)
    checkpoints = serializers.SerializerMethodField(help_text="the newest first")

    class Meta(JobSerializer.Meta):
        fields = [
            *JobSerializer.Meta.fields,
            "command",
            "script",
            "env_names",
            "retry",
            "after",
            "after_policy",
            "files",
            "artifacts",
            "attempts",
            "checkpoints",
        ]
        read_only_fields = fields

    def get_env_names(self, job: Job) -> list[str]:
        return sorted(job.work.env)

    @extend_schema_field(JobFileSerializer(many=True))
    def get_files(self, job: Job) -> Any:
        return JobFileSerializer(files_of(job), many=True).data

    @extend_schema_field(JobCheckpointSerializer(many=True))
    def get_checkpoints(self, job: Job) -> list[dict[str, Any]]:
        if job.checkpoint_every_s is None:
            return []
        return list(JobCheckpointSerializer(checkpoints_of(job)[:CHECKPOINTS_SHOWN], many=True).data)


class JobCreatedSerializer(JobDetailSerializer):
    """warnings: what no worker has at present, so that the job waits until one does."""

    warnings = ProblemSerializer(many=True)

    class Meta(JobDetailSerializer.Meta):
        fields = [*JobDetailSerializer.Meta.fields, "warnings"]
        read_only_fields = fields


class LogSerializer(serializers.Serializer):
    """Output from `offset` on, as text: bytes that are no UTF-8 become U+FFFD. Offsets count bytes."""

    attempt = serializers.IntegerField(help_text="whose output it is; 0: it has not begun")
    offset = serializers.IntegerField()
    data = serializers.CharField(allow_blank=True)
    next_offset = serializers.IntegerField(help_text="where to go on")
    done = serializers.BooleanField(help_text="nothing will be added any more")


class ProviderStatusSerializer(serializers.Serializer):
    provider = serializers.CharField()
    workers = serializers.IntegerField()
    online = serializers.IntegerField()
    safe = serializers.IntegerField(help_text="online and safe on quota")
    hours_left = serializers.FloatField(allow_null=True, help_text="null: nothing limits them")


class WeekStatusSerializer(serializers.Serializer):
    """How far an account is in its week. The provider's own figure wins over what is counted here, and the difference is
    shown; hours that no report has proven are marked as estimated."""

    account = WorkerAccountSerializer()
    used_hours = serializers.FloatField(source="used_h")
    limit_hours = serializers.FloatField(source="limit_h")
    percent = serializers.FloatField()
    resets_at = serializers.DateTimeField()
    estimated_hours = serializers.FloatField(source="use.estimated_h", help_text="of used_hours")
    own_hours = serializers.FloatField(source="use.own_h", help_text="as counted here")
    official_hours = serializers.FloatField(
        source="use.official_h",
        allow_null=True,
        help_text="as the provider said at official_at; null: it never did",
    )
    official_at = serializers.DateTimeField(source="use.official_at", allow_null=True)
    difference_hours = serializers.FloatField(
        source="use.difference_h",
        allow_null=True,
        help_text="official_hours less what was counted here by then",
    )


class PoolStatusSerializer(serializers.Serializer):
    """The shared pool at a glance."""

    workers = serializers.IntegerField()
    online = serializers.IntegerField()
    online_percent = serializers.FloatField()
    safe = serializers.IntegerField(help_text="online and safe on quota")
    hours_left = serializers.FloatField(
        allow_null=True,
        help_text="this week, of weeks and running sessions together; null: nothing limits them",
    )
    jobs = serializers.DictField(child=serializers.IntegerField(), help_text="queued, dispatched and running")
    providers = ProviderStatusSerializer(many=True)
    weeks = WeekStatusSerializer(many=True)
