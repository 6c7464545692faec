"""Sessions, readings and join tokens: written by the engine."""

from __future__ import annotations

from django.contrib import admin
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.paginator import InfinitePaginator

from core.admin_base import ReadOnlyAdmin
from pool.models import AccountWeek, EnrollmentToken, Sample, Session


@admin.register(Session)
class SessionAdmin(ReadOnlyAdmin):
    list_display = [
        "worker",
        "epoch",
        "started_at",
        "runtime_s",
        "counted_s",
        "estimated_until",
        "last_post_at",
        "ended_at",
    ]
    search_fields = ["worker__name", "=worker__id"]
    list_select_related = ["worker"]


@admin.register(Sample)
class SampleAdmin(ReadOnlyAdmin):
    list_display = ["at", "worker", "epoch", "gpu_util", "status"]
    list_filter = [("at", RangeDateTimeFilter)]
    search_fields = ["=worker__id"]
    list_select_related = ["worker"]
    paginator = InfinitePaginator


@admin.register(AccountWeek)
class AccountWeekAdmin(ReadOnlyAdmin):
    list_display = [
        "account",
        "starts_at",
        "used_s",
        "estimated_s",
        "official_s",
        "own_s",
        "official_at",
    ]
    list_select_related = ["account"]


@admin.register(EnrollmentToken)
class EnrollmentTokenAdmin(ReadOnlyAdmin):
    list_display = ["account", "worker", "epoch", "uses_left", "expires_at", "created_by"]
    list_select_related = ["account", "worker"]
