"""Events and chains: written by the engine, read by people."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import ChoicesDropdownFilter, RangeDateTimeFilter
from unfold.decorators import display
from unfold.paginator import InfinitePaginator

from core.admin_base import ReadOnlyAdmin, ReadOnlyInline
from core.chain_states import ChainState
from core.models import Chain, ChainStep, Event

CHAIN_COLOURS = {
    ChainState.ACTIVE: "info",
    ChainState.SUCCEEDED: "success",
    ChainState.ABORTED: "warning",
    ChainState.FAILED: "danger",
}


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    list_display = ["at", "subject_type", "subject_id", "code", "change", "why", "by"]
    list_filter = [("at", RangeDateTimeFilter), "subject_type"]
    search_fields = ["=subject_id", "=code", "=by"]
    list_fullwidth = True
    paginator = InfinitePaginator
    fields = ["at", "subject_type", "subject_id", "code", "change", "why", "by", "owner", "data"]
    readonly_fields = fields

    @display(description=_("change"))
    def change(self, event: Event) -> str:
        return f"{event.from_state} → {event.to_state}" if event.to_state else "–"

    @display(description=_("reason"))
    def why(self, event: Event) -> str:
        return event.reason


class StepInline(ReadOnlyInline):
    model = ChainStep
    fields = ["step", "outcome", "started_at", "ended_at", "runs", "why"]
    readonly_fields = fields

    @display(description=_("reason"))
    def why(self, step: ChainStep) -> str:
        return step.reason


@admin.register(Chain)
class ChainAdmin(ReadOnlyAdmin):
    list_display = ["id", "kind", "subject", "status", "step", "why", "next_at", "created_at"]
    list_filter = [("state", ChoicesDropdownFilter), "kind"]
    search_fields = ["=id", "=subject_id"]
    inlines = [StepInline]
    fields = [
        "kind",
        "subject",
        "state",
        "why",
        ("step", "step_since"),
        ("attempts", "runs", "fence"),
        ("next_at", "lease_until"),
        ("by", "owner"),
        ("created_at", "ended_at"),
        "data",
    ]
    readonly_fields = ["subject", "why"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Chain]:
        return super().get_queryset(request).select_related("owner")

    @display(description=_("subject"))
    def subject(self, chain: Chain) -> str:
        return f"{chain.subject_type} {chain.subject_id}"

    @display(description=_("status"), ordering="state", label=CHAIN_COLOURS)
    def status(self, chain: Chain) -> str:
        return chain.state

    @display(description=_("reason"))
    def why(self, chain: Chain) -> str:
        return chain.reason
