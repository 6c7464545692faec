"""Sessions that were started at a provider, and who has acknowledged its terms: looked at. Both are done on the account's page."""

from __future__ import annotations

from django.contrib import admin
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from core.admin_base import ReadOnlyAdmin
from pool.models import NotebookStart, TermsAcknowledgement
from pool.states import StartState

COLOURS = {
    StartState.PUSHING: "info",
    StartState.QUEUED: "info",
    StartState.RUNNING: "success",
    StartState.ENDED: "default",
    StartState.FAILED: "danger",
}


@admin.register(NotebookStart)
class NotebookStartAdmin(ReadOnlyAdmin):
    list_display = ["name", "account", "status", "why", "worker", "created_at", "ended_at"]
    list_filter = ["state"]
    search_fields = ["name", "=id", "=account__id"]
    list_select_related = ["account", "worker"]
    fields = [
        ("id", "name"),
        ("account", "worker", "by"),
        ("state", "state_since", "why"),
        ("accelerator", "provider_status", "version"),
        "url",
        ("created_at", "ended_at"),
        "output",
    ]
    readonly_fields = ["id", "why"]

    @display(description=_("status"), ordering="state", label=COLOURS)
    def status(self, start: NotebookStart) -> str:
        return start.state

    @display(description=_("reason"))
    def why(self, start: NotebookStart) -> str:
        return start.reason


@admin.register(TermsAcknowledgement)
class TermsAcknowledgementAdmin(ReadOnlyAdmin):
    list_display = ["label", "account", "owner", "version", "by", "at"]
    list_select_related = ["account", "owner"]
