"""What the instance routes read and answer."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from rest_framework import serializers

from core.models import Chain, ChainStep, Event
from core.request_body import RequestBody
from hibernation.models import Box, Instance
from pool.models import Sample

GIB = 1024**3


class BoxSerializer(serializers.ModelSerializer):
    """A machine that is rented for an instance."""

    status = serializers.CharField(source="state")
    reason = serializers.CharField(help_text="why it is in its state")

    class Meta:
        model = Box
        fields = [
            "id",
            "status",
            "reason",
            "provider_ref",
            "machine_id",
            "gpu_name",
            "region",
            "price_usd_per_h",
            "rented_at",
        ]
        read_only_fields = fields


class ProgressSerializer(serializers.Serializer):
    """How far an active chain is. percent: of the whole chain; bytes, files and left_s: of the step that moves them."""

    chain = serializers.CharField()
    kind = serializers.CharField(help_text="hibernate, wake, provision or discard")
    step = serializers.CharField()
    steps = serializers.ListField(child=serializers.CharField())
    phase = serializers.CharField(help_text="the agent's own word for what it does, else the step")
    percent = serializers.FloatField()
    bytes_done = serializers.IntegerField()
    bytes_total = serializers.IntegerField()
    files_done = serializers.IntegerField()
    files_total = serializers.IntegerField()
    bytes_per_s = serializers.FloatField(allow_null=True)
    left_s = serializers.FloatField(allow_null=True, help_text="seconds; null: unknown")
    reason = serializers.CharField(allow_blank=True, help_text="what it waits for")
    since = serializers.DateTimeField()


class ScheduleSerializer(serializers.Serializer):
    """The next moments of its schedule; the schedule itself is part of the policy."""

    next_wake_at = serializers.DateTimeField(allow_null=True)
    next_sleep_at = serializers.DateTimeField(allow_null=True)


class InstanceSerializer(serializers.ModelSerializer):
    status = serializers.CharField(source="state")
    reason = serializers.CharField(help_text="why it is in its state")
    why = serializers.CharField(help_text="why it is awake now, or asleep")
    owner = serializers.CharField(source="owner.get_username")
    account = serializers.CharField(source="account_id")
    worker = serializers.CharField(source="worker_id", allow_null=True)
    snapshot = serializers.CharField(source="snapshot_id", allow_null=True)
    price_usd_per_h = serializers.DecimalField(
        source="shown.price_usd_per_h", max_digits=12, decimal_places=4, help_text="billed for it now"
    )
    box = BoxSerializer(source="shown.box", allow_null=True, help_text="the one that it lives on now")
    boxes = BoxSerializer(
        source="shown.boxes",
        many=True,
        help_text="all that are billed for it now: also those that go, and stranded ones, which wait for your decision",
    )
    progress = ProgressSerializer(source="shown.progress", allow_null=True)
    schedule = ScheduleSerializer(source="shown.schedule", allow_null=True)
    auto_hibernation = serializers.DictField(
        source="shown.policy", help_text="the policy that counts for it, every field decided"
    )

    class Meta:
        model = Instance
        fields = [
            "id",
            "name",
            "status",
            "reason",
            "why",
            "owner",
            "account",
            "gpu_type",
            "region",
            "price_cap_usd_per_h",
            "disk_bytes",
            "on_wake",
            "epoch",
            "worker",
            "box",
            "boxes",
            "price_usd_per_h",
            "gpu_util",
            "last_active_at",
            "idle_since",
            "idle_due_at",
            "awake_since",
            "keep_awake_until",
            "hibernated_at",
            "delete_due_at",
            "snapshot",
            "restore_incomplete",
            "progress",
            "schedule",
            "auto_hibernation",
            "created_at",
        ]
        read_only_fields = fields


class InstanceCreateSerializer(RequestBody):
    name = serializers.CharField(max_length=80)
    account = serializers.CharField(
        required=False,
        max_length=24,
        help_text="a vast.ai or local account; may be left out where you have one",
    )
    gpu_type = serializers.CharField(required=False, allow_blank=True, max_length=80, default="")
    region = serializers.CharField(required=False, allow_blank=True, max_length=40, default="")
    price_cap_usd_per_h = serializers.DecimalField(
        required=False,
        allow_null=True,
        max_digits=10,
        decimal_places=4,
        min_value=Decimal("0.0001"),
        default=None,
    )
    disk_bytes = serializers.IntegerField(
        required=False, min_value=GIB, max_value=16 * 1024 * GIB, default=50 * GIB
    )
    on_wake = serializers.CharField(
        required=False, allow_blank=True, default="", trim_whitespace=False, max_length=65_536
    )
    config = serializers.JSONField(required=False, default=dict, help_text='{"auto_hibernation": {...}}')


class WakeSerializer(RequestBody):
    gpu_type = serializers.CharField(
        required=False, allow_blank=True, max_length=80, default="", help_text="empty: the instance's own"
    )
    region = serializers.CharField(
        required=False, allow_blank=True, max_length=40, default="", help_text="empty: the instance's own"
    )


class KeepAwakeSerializer(RequestBody):
    minutes = serializers.FloatField(
        min_value=0, max_value=7 * 24 * 60, help_text="from now; 0 lifts the hold"
    )


class ChainStepSerializer(serializers.ModelSerializer):
    reason = serializers.CharField(allow_blank=True)

    class Meta:
        model = ChainStep
        fields = ["step", "started_at", "ended_at", "runs", "outcome", "reason"]
        read_only_fields = fields


class ChainSerializer(serializers.ModelSerializer):
    status = serializers.CharField(source="state")
    reason = serializers.CharField(allow_blank=True)
    steps = ChainStepSerializer(many=True, help_text="the steps that are done")

    class Meta:
        model = Chain
        fields = [
            "id",
            "kind",
            "status",
            "step",
            "reason",
            "by",
            "attempts",
            "next_at",
            "created_at",
            "ended_at",
            "steps",
        ]
        read_only_fields = fields


class EstimateSerializer(serializers.Serializer):
    rent_s = serializers.FloatField()
    restore_s = serializers.FloatField()
    total_s = serializers.FloatField()
    bytes = serializers.IntegerField()
    basis = serializers.CharField(help_text="history or assumption")


class StartedSerializer(serializers.Serializer):
    status = serializers.CharField(help_text="of the instance")
    chain = ChainSerializer()


class WakingSerializer(StartedSerializer):
    estimate = EstimateSerializer()


class EventSerializer(serializers.ModelSerializer):
    reason = serializers.CharField(allow_blank=True)
    usd_per_h = serializers.SerializerMethodField(help_text="what was billed for the instance from then on")

    class Meta:
        model = Event
        fields = ["id", "at", "code", "from_state", "to_state", "reason", "by", "usd_per_h", "data"]
        read_only_fields = fields

    def get_usd_per_h(self, event: Event) -> float:
        boxes: list[Box] = self.context.get("boxes", [])
        billed = (
            box.price_usd_per_h
            for box in boxes
            if box.rented_at is not None
            and box.rented_at <= event.at
            and (box.gone_at is None or event.at < box.gone_at)
        )
        return float(sum(billed))


class SampleSerializer(serializers.ModelSerializer):
    readings = serializers.DictField()

    class Meta:
        model = Sample
        fields = ["at", "epoch", "gpu_util", "status", "readings"]
        read_only_fields = fields


# -- policy and schedule: their fields are checked, with sentences, by hibernation.policy -------------------------------


class PolicyScheduleSerializer(serializers.Serializer):
    wake_time = serializers.CharField(
        required=False, allow_null=True, help_text="HH:MM local time; null: never"
    )
    sleep_time = serializers.CharField(
        required=False, allow_null=True, help_text="HH:MM local time; null: never"
    )
    timezone = serializers.CharField(required=False, help_text="IANA, such as America/Sao_Paulo")
    weekdays = serializers.ListField(
        child=serializers.IntegerField(min_value=0, max_value=6), required=False, help_text="0 is Monday"
    )


class SignalsSerializer(serializers.Serializer):
    vram_percent = serializers.FloatField(required=False, allow_null=True)
    cpu_percent = serializers.FloatField(required=False, allow_null=True)
    net_bytes_per_s = serializers.FloatField(required=False, allow_null=True)
    ssh_sessions = serializers.IntegerField(required=False, allow_null=True)
    jupyter_sessions = serializers.IntegerField(required=False, allow_null=True)


class AutoHibernationSerializer(serializers.Serializer):
    enabled = serializers.BooleanField(required=False)
    pause_after_idle_minutes = serializers.FloatField(required=False)
    delete_after_pause_minutes = serializers.FloatField(required=False)
    gpu_usage_threshold = serializers.FloatField(required=False, help_text="percent; idle is below it")
    check_interval_seconds = serializers.FloatField(required=False)
    wake_method = serializers.ChoiceField(choices=["manual", "auto", "scheduled"], required=False)
    schedule = PolicyScheduleSerializer(required=False, allow_null=True)
    minimum_awake_minutes = serializers.FloatField(required=False)
    signals = SignalsSerializer(
        required=False, allow_null=True, help_text="above one of them is activity; null: off"
    )
    verify_share = serializers.FloatField(
        required=False, help_text="of a snapshot's blocks, read back before its box may go"
    )


class ConfigSerializer(serializers.Serializer):
    auto_hibernation = AutoHibernationSerializer(required=False)


class ResolvedConfigSerializer(serializers.Serializer):
    auto_hibernation = AutoHibernationSerializer(help_text="every field decided")
    own = serializers.DictField(help_text="what the instance itself says: the body of PUT")
    origins = serializers.DictField(
        child=serializers.CharField(), help_text="field -> instance, gpu_type, owner, site or default"
    )


class ScheduledSerializer(PolicyScheduleSerializer):
    next_wake_at = serializers.DateTimeField(allow_null=True)
    next_sleep_at = serializers.DateTimeField(allow_null=True)


# -- why ----------------------------------------------------------------------------------------------------------------


class NextSerializer(serializers.Serializer):
    what = serializers.CharField(help_text="hibernate, sleep, wake or delete")
    at = serializers.DateTimeField()
    text = serializers.CharField()


class TurnSerializer(serializers.Serializer):
    at = serializers.DateTimeField()
    by = serializers.CharField(allow_blank=True)
    reason = serializers.CharField(allow_blank=True)


class VerdictSerializer(serializers.Serializer):
    at = serializers.DateTimeField()
    idle = serializers.BooleanField()
    code = serializers.CharField()
    reason = serializers.CharField()
    since = serializers.DateTimeField(allow_null=True)
    due_at = serializers.DateTimeField(allow_null=True)
    policy = serializers.DictField()
    work = serializers.ListField(child=serializers.CharField())
    samples = serializers.ListField(child=serializers.DictField())


class WhySerializer(serializers.Serializer):
    status = serializers.CharField()
    why = serializers.CharField(allow_blank=True)
    code = serializers.CharField(allow_blank=True)
    next = NextSerializer(many=True)
    slept = TurnSerializer(allow_null=True, help_text="when and why it last began to go to sleep")
    woke = TurnSerializer(allow_null=True, help_text="when and why it last began to wake")
    progress = ProgressSerializer(allow_null=True)
    verdict = VerdictSerializer(allow_null=True, help_text="of this moment; null where it is not awake")


def checked(serializer: type[serializers.Serializer], data: Any) -> dict[str, Any]:
    """The valid fields of a request's body; ValidationError where one is wrong."""
    found = serializer(data=data)
    found.is_valid(raise_exception=True)
    return dict(found.validated_data)
