"""What the engine writes down beside its instances: boxes, verdicts, moments, and machines that are not rented again."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminTextInputWidget

from core.admin_base import ConsoleAdmin, Dialog, OperatedAdmin, ReadOnlyAdmin, action
from hibernation.models import Box, MachineBan, Schedule, Verdict
from hibernation.services.stranded import stranded_discard
from hibernation.states import BoxState


@admin.register(MachineBan)
class MachineBanAdmin(ConsoleAdmin):
    list_display = ["account_kind", "machine_id", "until", "note"]
    list_filter = ["account_kind"]
    search_fields = ["machine_id", "note"]


class DiscardDialog(Dialog):
    confirm = forms.CharField(
        label=_("Its label"), help_text=_("Type it to confirm."), widget=UnfoldAdminTextInputWidget
    )

    def clean(self) -> dict[str, Any]:
        fields: dict[str, Any] = self.cleaned_data
        row = Box.objects.filter(pk=self.object_id).first()
        if row is None or row.state != BoxState.STRANDED:
            raise forms.ValidationError(_("Only a stranded box is discarded here."))
        if fields.get("confirm", row.label) != row.label:
            self.add_error("confirm", _("This is not its label."))
        return fields


@admin.register(Box)
class BoxAdmin(OperatedAdmin):
    actions_row = actions_detail = ["discard"]
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

    @action(
        description=_("Discard"),
        icon="delete",
        url_path="discard",
        permissions=["operate"],
        variant=ActionVariant.DANGER,
        dialog={
            "title": _("Discard this stranded box?"),
            "description": _(
                "What is on it is in no snapshot, and is lost. Until then it stays and is billed."
            ),
            "form_class": DiscardDialog,
            "form_submit_text": _("Discard"),
        },
    )
    def discard(self, request: HttpRequest, form: DiscardDialog, object_id: str) -> HttpResponse:
        by = request.user.get_username()
        return self.act(
            request, object_id, lambda box: stranded_discard(box, by=by), done=gettext("The box is going.")
        )


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
