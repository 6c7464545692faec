"""Snapshots in the console: looked at, never edited by hand."""

from __future__ import annotations

from django.contrib import admin
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from core.admin_base import ReadOnlyAdmin
from snapshots.models import Snapshot
from snapshots.states import SnapshotState as S

COLOURS = {
    S.VERIFIED: "success",
    S.TAKING: "info",
    S.COMMITTED: "info",
    S.DAMAGED: "danger",
    S.FAILED: "danger",
}


@admin.register(Snapshot)
class SnapshotAdmin(ReadOnlyAdmin):
    list_display = ["generation_of", "status", "files", "size", "stored", "verified_at", "reason"]
    list_filter = ["state", "pinned"]
    search_fields = ["id", "workspace_ref"]
    list_select_related = ["owner"]

    @display(description=_("snapshot"), header=True, ordering="workspace_ref")
    def generation_of(self, row: Snapshot) -> list[str]:
        return [_("generation %d") % row.generation, f"{row.owner.get_username()} · {row.workspace_ref}"]

    @display(description=_("status"), ordering="state", label=COLOURS)
    def status(self, row: Snapshot) -> tuple[str, str]:
        return row.state, row.state

    @display(description=_("size"), ordering="logical_bytes")
    def size(self, row: Snapshot) -> str:
        return filesizeformat(row.logical_bytes)

    @display(description=_("stored"), ordering="stored_bytes")
    def stored(self, row: Snapshot) -> str:
        return filesizeformat(row.stored_bytes)
