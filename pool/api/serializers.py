"""What the pool's routes for people read and answer."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from core.request_body import RequestBody
from pool.models import Account, Dispatch, Job, Worker
from pool.quota import Reading
from pool.services.accounts import credentials_hint


class QuotaSerializer(serializers.Serializer):
    """How much of its quota a worker has used. hours_left: until its session or week ends; null: no limit."""

    model = serializers.ChoiceField(choices=["none", "session", "week", "money"])
    used = serializers.FloatField(help_text="hours; USD for money")
    limit = serializers.FloatField(allow_null=True)
    percent = serializers.FloatField()
    safe = serializers.BooleanField()
    hours_left = serializers.FloatField(source="left_h", allow_null=True)
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
    """One try of a job on one worker."""

    status = serializers.CharField(source="state")
    reason = serializers.CharField()
    worker = JobWorkerSerializer()

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
        ]
        read_only_fields = fields


class JobSerializer(serializers.ModelSerializer):
    """A job. reason: why it waits, or what became of it. env_names: its environment's values are not shown."""

    status = serializers.CharField(source="state")
    reason = serializers.CharField()
    owner = serializers.CharField(source="owner.username")
    instance = serializers.CharField(source="instance_ref")
    env_names = serializers.SerializerMethodField()
    worker = serializers.SerializerMethodField()

    class Meta:
        model = Job
        fields = [
            "id",
            "name",
            "status",
            "reason",
            "owner",
            "command",
            "script",
            "env_names",
            "timeout_s",
            "grace_s",
            "gpu_mem_bytes",
            "provider",
            "expected_hours",
            "instance",
            "priority",
            "attempt",
            "max_attempts",
            "worker",
            "exit_code",
            "queued_at",
            "started_at",
            "ended_at",
            "cancel_requested_at",
        ]
        read_only_fields = fields

    def get_env_names(self, job: Job) -> list[str]:
        return sorted(job.env)

    @extend_schema_field(JobWorkerSerializer(allow_null=True))
    def get_worker(self, job: Job) -> dict[str, Any] | None:
        attempts = list(job.attempts.all())  # prefetched, in order
        return JobWorkerSerializer(attempts[-1].worker).data if attempts else None


class JobDetailSerializer(JobSerializer):
    attempts = AttemptSerializer(many=True)

    class Meta(JobSerializer.Meta):
        fields = [*JobSerializer.Meta.fields, "attempts"]
        read_only_fields = fields


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
        required=False, allow_null=True, default=None, help_text="counted from the start of each attempt"
    )
    grace_s = serializers.FloatField(required=False, default=15, help_text="between TERM and KILL")
    gpu_mem_bytes = serializers.IntegerField(required=False, default=0, help_text="per GPU")
    provider = serializers.CharField(required=False, default="", allow_blank=True)
    expected_hours = serializers.FloatField(required=False, allow_null=True, default=None)
    instance = serializers.CharField(
        required=False,
        default="",
        allow_blank=True,
        source="instance_ref",
        help_text="run it on this instance only",
    )
    priority = serializers.IntegerField(required=False, default=0, help_text="higher runs first")
    max_attempts = serializers.IntegerField(required=False, default=5, help_text="how often it may be begun")


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
    """How far an account is in its week."""

    account = WorkerAccountSerializer()
    used_hours = serializers.FloatField(source="used_h")
    limit_hours = serializers.FloatField(source="limit_h")
    percent = serializers.FloatField()
    resets_at = serializers.DateTimeField()


class PoolStatusSerializer(serializers.Serializer):
    """The shared pool at a glance."""

    workers = serializers.IntegerField()
    online = serializers.IntegerField()
    online_percent = serializers.FloatField()
    safe = serializers.IntegerField(help_text="online and safe on quota")
    hours_left = serializers.FloatField(help_text="this week, of weeks and running sessions together")
    jobs = serializers.DictField(child=serializers.IntegerField(), help_text="queued, dispatched and running")
    providers = ProviderStatusSerializer(many=True)
    weeks = WeekStatusSerializer(many=True)
