"""Alerts: looked at, and acknowledged."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import ChoicesDropdownFilter, RangeDateTimeFilter
from unfold.decorators import display

from core.admin_base import NoteDialog, OperatedAdmin, ReadOnlyAdmin, ReadOnlyInline, action
from core.alerts.checking import alert_acknowledge
from core.alerts.states import AlertState
from core.models import Alert, AlertDelivery

COLOURS = {AlertState.OPEN: "danger", AlertState.ACKNOWLEDGED: "warning", AlertState.RESOLVED: "success"}
SEVERITY_COLOURS = {"info": "info", "warning": "warning", "critical": "danger"}


class DeliveryInline(ReadOnlyInline):
    model = AlertDelivery
    fields = ["channel", "target", "attempts", "next_at", "sent_at", "given_up_at", "error"]
    readonly_fields = fields
    show_change_link = False


@admin.register(Alert)
class AlertAdmin(OperatedAdmin):
    list_display = [
        "how_bad",
        "what",
        "subject",
        "status",
        "owner",
        "opened_at",
        "acknowledged_by",
        "resolved_at",
    ]
    list_filter = [
        ("state", ChoicesDropdownFilter),
        ("severity", ChoicesDropdownFilter),
        ("opened_at", RangeDateTimeFilter),
    ]
    search_fields = ["=id", "=cause", "=subject_id", "owner__username"]
    list_select_related = ["owner"]
    inlines = [DeliveryInline]
    fields = [
        "what",
        ("cause", "severity"),
        ("subject", "owner"),
        ("state", "state_since", "why"),
        ("opened_at", "resolved_at"),
        ("acknowledged_at", "acknowledged_by"),
    ]
    readonly_fields = ["what", "subject", "why"]
    actions_row = ["acknowledge"]
    actions_detail = ["acknowledge"]

    @display(description=_("severity"), ordering="severity", label=SEVERITY_COLOURS)
    def how_bad(self, alert: Alert) -> str:
        return alert.severity

    @display(description=_("what is wrong"))
    def what(self, alert: Alert) -> str:
        return alert.message

    @display(description=_("subject"))
    def subject(self, alert: Alert) -> str:
        return f"{alert.subject_type} {alert.subject_id}"

    @display(description=_("status"), ordering="state", label=COLOURS)
    def status(self, alert: Alert) -> str:
        return alert.state

    @display(description=_("reason"))
    def why(self, alert: Alert) -> str:
        return alert.reason

    @action(
        description=_("Acknowledge"),
        icon="visibility",
        url_path="acknowledge",
        permissions=["operate"],
        dialog={
            "title": _("Acknowledge this alert?"),
            "description": _("Says that you know. It is resolved by itself when its cause has gone."),
            "form_class": NoteDialog,
            "form_submit_text": _("I know"),
        },
    )
    def acknowledge(self, request: HttpRequest, form: NoteDialog, object_id: str) -> HttpResponse:
        by = request.user.get_username()

        def do(alert: Alert) -> None:
            alert_acknowledge(alert, by=by, reason=form.reason(), now=timezone.now())

        return self.act(request, object_id, do, done=gettext("It is acknowledged."))


@admin.register(AlertDelivery)
class AlertDeliveryAdmin(ReadOnlyAdmin):
    """Who was told, who is still to be told, and what went wrong on the way."""

    list_display = ["alert", "channel", "target", "attempts", "next_at", "sent_at", "given_up_at", "error"]
    list_filter = ["channel"]
    search_fields = ["=alert__id", "=target"]
    list_select_related = ["alert"]
