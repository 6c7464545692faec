"""Arrays of jobs: looked at, and cancelled as a whole."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display
from unfold.enums import ActionVariant

from core.admin_base import Dialog, OperatedAdmin, action
from pool.models import JobArray
from pool.selectors_jobs import arrays_shown
from pool.services.cancelling import array_cancel


@admin.register(JobArray)
class JobArrayAdmin(OperatedAdmin):
    list_display = ["name", "owner", "count", "created_at"]
    search_fields = ["name", "=id", "owner__username"]
    list_select_related = ["owner"]
    fields = [
        ("id", "name", "owner"),
        ("count", "created_at"),
        ("statuses", "jobs"),
        "command",
        "script",
        "variables",
        ("workdir", "artifacts", "after"),
    ]
    readonly_fields = ["id", "statuses", "jobs", "variables"]
    actions_row = ["cancel"]
    actions_detail = ["cancel"]

    @display(description=_("statuses"))
    def statuses(self, array: JobArray) -> str:
        (shown,) = arrays_shown([array])
        return ", ".join(f"{count} {state}" for state, count in sorted(shown.statuses.items())) or "–"

    @display(description=_("jobs"))
    def jobs(self, array: JobArray) -> SafeString:
        place = f"{reverse('admin:pool_job_changelist')}?array__id__exact={array.pk}"
        return format_html('<a class="underline" href="{}">{}</a>', place, gettext("its jobs"))

    @display(description=_("environment"))
    def variables(self, array: JobArray) -> str:
        return ", ".join(sorted(array.env)) or "–"

    @action(
        description=_("Cancel"),
        icon="cancel",
        url_path="cancel",
        permissions=["operate"],
        variant=ActionVariant.DANGER,
        dialog={
            "title": _("Cancel all jobs of this array?"),
            "description": _("Those that run are told to end, and are killed after their grace."),
            "form_class": Dialog,
            "form_submit_text": _("Cancel the jobs"),
        },
    )
    def cancel(self, request: HttpRequest, form: Dialog, object_id: str) -> HttpResponse:
        def do(array: JobArray) -> None:
            array_cancel(array, by=request.user.get_username())

        return self.act(
            request,
            object_id,
            do,
            done=gettext("They are cancelled, or will be as soon as their workers have ended them."),
        )
