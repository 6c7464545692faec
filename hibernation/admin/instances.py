"""Instances in the console. What changes the world is a confirmed POST, never a link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display
from unfold.enums import ActionVariant

from core.admin_base import ConsoleAdmin, ReadOnlyInline, action
from core.errors import DomainError
from core.reasons import because
from hibernation import selectors
from hibernation.admin.dialogs import GiveUpDialog, HibernateDialog, KeepAwakeDialog, RentDialog, WakeDialog
from hibernation.admin.forms import InstanceForm
from hibernation.models import Box, Instance
from hibernation.services.instances import instance_create, instance_delete, instance_keep_awake
from hibernation.services.policies import config_set, policies_apply
from hibernation.services.sleep import instance_sleep
from hibernation.services.wake import instance_wake
from hibernation.states import InstanceState as S

# Green works, blue is in progress, yellow asks for attention, red failed; what is off has no colour.
COLOURS = {
    S.RUNNING: "success",
    S.IDLE: "warning",
    S.PROVISIONING: "info",
    S.HIBERNATING: "info",
    S.WAKING: "info",
    S.LOST: "danger",
}


class BoxInline(ReadOnlyInline):
    model = Box
    fields = ["label", "state", "gpu_name", "region", "price_usd_per_h", "rented_at", "gone_at"]
    readonly_fields = fields


@admin.register(Instance)
class InstanceAdmin(ConsoleAdmin):
    form = InstanceForm
    list_display = ["head", "status", "progress", "price", "gpu", "why"]
    list_filter = ["state", "account"]
    search_fields = ["id", "name", "owner__username"]
    inlines = [BoxInline]
    actions_list = ["rent"]
    actions_row = actions_detail = ["wake", "hibernate", "keep_awake", "give_up"]
    readonly_fields = [
        "id",
        "owner",
        "account",
        "status",
        "why",
        "progress",
        "price",
        "worker",
        "epoch",
        "disk_bytes",
        "snapshot",
        "gpu_util",
        "awake_since",
        "last_active_at",
        "idle_since",
        "idle_due_at",
        "keep_awake_until",
        "hibernated_at",
        "delete_due_at",
        "restore_incomplete",
        "created_at",
    ]
    fieldsets = [
        (
            None,
            {"fields": ["name", ("gpu_type", "region"), "price_cap_usd_per_h", "on_wake", "config"]},
        ),
        (_("Now"), {"fields": ["status", "why", "progress", "price", "gpu_util"]}),
        (
            _("Belongs to"),
            {"fields": ["id", "owner", "account", "worker", "epoch", "disk_bytes", "snapshot"]},
        ),
        (
            _("Times"),
            {
                "fields": [
                    "awake_since",
                    "last_active_at",
                    "idle_since",
                    "idle_due_at",
                    "keep_awake_until",
                    "hibernated_at",
                    "delete_due_at",
                    "restore_incomplete",
                    "created_at",
                ]
            },
        ),
    ]

    # -- looking --

    def get_queryset(self, request: HttpRequest) -> Any:
        return selectors.instances().order_by("name", "pk")

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        changes = super().get_changelist_instance(request)
        changes.result_list = selectors.shown(list(changes.result_list))
        return changes

    def get_object(self, request: HttpRequest, object_id: str, from_field: Any = None) -> Instance | None:
        found = super().get_object(request, object_id, from_field)
        return selectors.shown([found])[0] if found is not None else None

    @display(description=_("instance"), header=True, ordering="name")
    def head(self, row: Instance) -> list[str]:
        return [row.name, f"{row.owner} · {row.account}"]

    @display(description=_("status"), ordering="state", label=COLOURS)
    def status(self, row: Instance) -> tuple[str, str]:
        return row.state, gettext(row.state)

    @display(description=_("progress"))
    def progress(self, row: Instance) -> str:
        found = row.shown.progress
        if found is None:
            return "–"
        how_far = f"{found.phase} · {found.percent:.0f} %"
        # Its first step has the reason that the instance itself has, which stands beside this.
        if not found.reason or found.reason == row.reason:
            return how_far
        return format_html('<div title="{}">{}<br>{}</div>', found.reason, how_far, found.reason[:90])

    @display(description=_("price"))
    def price(self, row: Instance) -> str:
        return f"US$ {row.shown.price_usd_per_h:.4f}/h"

    @display(description=_("GPU"), ordering="gpu_util")
    def gpu(self, row: Instance) -> str:
        return "–" if row.gpu_util is None else f"{row.gpu_util:.0f} %"

    @display(description=_("why"))
    def why(self, row: Instance) -> str:
        return format_html('<span title="{}">{}</span>', row.why, row.why[:90] or "–")

    # -- changing --

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # an instance is rented, with a chain that does it: see `rent`

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # it is given up, with its box: see `give_up`

    def save_model(self, request: HttpRequest, obj: Instance, form: Any, change: bool) -> None:
        """Only the columns that were changed: the engine writes the others meanwhile."""
        changed = [name for name in form.changed_data if name != "config"]
        if changed:
            obj.save(update_fields=changed)
            policies_apply(Instance.objects.filter(pk=obj.pk), now=timezone.now())
        if "config" in form.changed_data:
            config_set(obj, form.cleaned_data["config"], by=request.user.get_username())

    @action(
        description=_("Wake"),
        icon="bolt",
        url_path="wake",
        permissions=["change"],
        variant=ActionVariant.PRIMARY,
        dialog={
            "title": _("Wake this instance?"),
            "description": _("Its last verified generation is restored on a newly rented machine."),
            "form_class": WakeDialog,
            "form_submit_text": _("Wake"),
        },
    )
    def wake(self, request: HttpRequest, form: WakeDialog, object_id: str) -> HttpResponse:
        def do(row: Instance, by: str) -> str:
            fields = form.cleaned_data
            reason = because("wake_asked", by=by)
            instance_wake(
                row, gpu_type=fields["gpu_type"], region=fields["region"], reason=reason, by=by, limited=True
            )
            return gettext("%s is waking.") % row.name

        return _done(request, object_id, do)

    @action(
        description=_("Hibernate"),
        icon="bedtime",
        url_path="hibernate",
        permissions=["change"],
        dialog={
            "title": _("Put this instance to sleep?"),
            "description": _(
                "Its workspace is snapshotted and verified; only then its machine is given back. "
                "What is written after the snapshot has begun may not be in it. A wake that is under way is stopped."
            ),
            "form_class": HibernateDialog,
            "form_submit_text": _("Hibernate"),
        },
    )
    def hibernate(self, request: HttpRequest, form: HibernateDialog, object_id: str) -> HttpResponse:
        def do(row: Instance, by: str) -> str:
            instance_sleep(row, by=by)
            return gettext("%s is going to sleep.") % row.name

        return _done(request, object_id, do)

    @action(
        description=_("Keep awake"),
        icon="coffee",
        url_path="keep-awake",
        permissions=["change"],
        dialog={
            "title": _("Keep this instance awake?"),
            "description": _("It goes on being billed. A hibernation that can still be stopped is stopped."),
            "form_class": KeepAwakeDialog,
            "form_submit_text": _("Keep awake"),
        },
    )
    def keep_awake(self, request: HttpRequest, form: KeepAwakeDialog, object_id: str) -> HttpResponse:
        def do(row: Instance, by: str) -> str:
            minutes = form.cleaned_data["minutes"]
            instance_keep_awake(row, minutes=minutes, by=by)
            return gettext("%(name)s is kept awake for %(minutes)g minutes.") % {
                "name": row.name,
                "minutes": minutes,
            }

        return _done(request, object_id, do)

    @action(
        description=_("Give up"),
        icon="delete",
        url_path="give-up",
        permissions=["change"],
        variant=ActionVariant.DANGER,
        dialog={
            "title": _("Give this instance up?"),
            "description": _("Its machine is given back and it is not woken any more. Its snapshots stay."),
            "form_class": GiveUpDialog,
            "form_submit_text": _("Give up"),
        },
    )
    def give_up(self, request: HttpRequest, form: GiveUpDialog, object_id: str) -> HttpResponse:
        def do(row: Instance, by: str) -> str:
            instance_delete(row, discard=form.cleaned_data["discard"], by=by)
            return gettext("%s is given up.") % row.name

        return _done(request, object_id, do)

    @action(
        description=_("Rent an instance"),
        icon="add",
        url_path="rent",
        permissions=["change"],
        variant=ActionVariant.PRIMARY,
        dialog={
            "title": _("Rent an instance?"),
            "description": _("Billing starts as soon as the machine is rented."),
            "form_class": RentDialog,
            "form_submit_text": _("Rent"),
        },
    )
    def rent(self, request: HttpRequest, form: RentDialog) -> HttpResponse:
        fields = dict(form.cleaned_data)
        fields.pop("_form_submitted", None)
        account, disk_gb = fields.pop("account"), fields.pop("disk_gb")
        try:
            row = instance_create(
                owner=account.owner,
                account=account,
                disk_bytes=disk_gb * 10**9,
                by=request.user.get_username(),
                **fields,
            )
            messages.success(request, gettext("%s is being rented.") % row.name)
        except DomainError as refused:
            messages.error(request, f"{refused.message}. {refused.hint}".strip())
        return _back(request)


def _done(request: HttpRequest, object_id: str, do: Callable[[Instance, str], str]) -> HttpResponse:
    """Do what was confirmed, and say how it went on the page that comes next."""
    row = Instance.objects.select_related("owner", "account", "worker", "snapshot").get(pk=object_id)
    try:
        messages.success(request, do(row, request.user.get_username()))
    except DomainError as refused:
        messages.error(request, f"{refused.message}. {refused.hint}".strip())
    return _back(request)


def _back(request: HttpRequest) -> HttpResponse:
    """To the list. A dialog's form is posted by htmx, which follows this header and not a redirect."""
    there = reverse("admin:hibernation_instance_changelist")
    if request.headers.get("HX-Request"):
        return HttpResponse(headers={"HX-Redirect": there})
    return HttpResponseRedirect(there)
