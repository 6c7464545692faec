"""Snapshots in the console: looked at, never edited by hand."""

from django.contrib import admin

from core.admin_base import ReadOnlyAdmin
from snapshots.models import Snapshot


@admin.register(Snapshot)
class SnapshotAdmin(ReadOnlyAdmin):
    list_display = [
        "instance_ref",
        "generation",
        "state",
        "files",
        "logical_bytes",
        "stored_bytes",
        "verified_at",
    ]
    list_filter = ["state"]
    search_fields = ["id", "instance_ref"]
    list_select_related = ["owner"]
