"""What the engine writes down beside its instances: boxes, verdicts, moments, and machines that are not rented again."""

from __future__ import annotations

from django.contrib import admin

from core.admin_base import ConsoleAdmin, ReadOnlyAdmin
from hibernation.models import Box, MachineBan, Schedule, Verdict


@admin.register(MachineBan)
class MachineBanAdmin(ConsoleAdmin):
    list_display = ["account_kind", "machine_id", "until", "note"]
    list_filter = ["account_kind"]
    search_fields = ["machine_id", "note"]


@admin.register(Box)
class BoxAdmin(ReadOnlyAdmin):
    list_display = [
        "label",
        "instance",
        "state",
        "gpu_name",
        "region",
        "price_usd_per_h",
        "rented_at",
        "gone_at",
    ]
    list_filter = ["state", "account"]
    search_fields = ["label", "provider_ref", "machine_id", "instance__name"]
    list_select_related = ["instance"]


@admin.register(Verdict)
class VerdictAdmin(ReadOnlyAdmin):
    list_display = ["at", "instance", "idle", "reason"]
    list_filter = ["idle"]
    search_fields = ["instance__name", "instance__id", "reason_code"]
    list_select_related = ["instance"]


@admin.register(Schedule)
class ScheduleAdmin(ReadOnlyAdmin):
    """The next moments; the times themselves are part of the instance's configuration."""

    list_display = ["instance", "next_wake_at", "next_sleep_at", "updated_at"]
    search_fields = ["instance__name"]
    list_select_related = ["instance"]
