"""Workers: looked at, drained, revoked; and how a new one joins."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from core.admin_base import Dialog, NoteDialog, OperatedAdmin, ReadOnlyInline, action, shown_once
from core.errors import DomainError
from pool import selectors
from pool.models import Account, Session, Worker
from pool.services import workers
from pool.services.enrollment import enrollment_token_issue
from pool.services.terms import terms_require
from pool.states import WorkerState

COLOURS = {
    WorkerState.ONLINE: "success",
    WorkerState.DRAINING: "warning",
    WorkerState.SUSPECT: "warning",
    WorkerState.LOST: "danger",
    WorkerState.OFFLINE: "default",
    WorkerState.REVOKED: "danger",
}


class JoinDialog(Dialog):
    account = forms.ModelChoiceField(
        label=_("Account"), queryset=Account.objects.none(), widget=UnfoldAdminSelectWidget
    )
    uses = forms.IntegerField(
        label=_("Machines that may join with it"),
        initial=1,
        min_value=1,
        max_value=1000,
        widget=UnfoldAdminTextInputWidget,
    )
    minutes = forms.IntegerField(
        label=_("Minutes that it lives"),
        initial=60,
        min_value=1,
        max_value=60 * 24 * 30,
        widget=UnfoldAdminTextInputWidget,
    )

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(request, *args, **kwargs)
        accounts = Account.objects.filter(enabled=True).select_related("owner")
        if not request.user.is_superuser:
            accounts = accounts.filter(owner=request.user)
        self.fields["account"].queryset = accounts

    def clean_account(self) -> Account:
        account: Account = self.cleaned_data["account"]
        try:
            terms_require(account)
        except DomainError as error:
            raise forms.ValidationError(f"{error.message}. {error.hint}") from error
        return account


class SessionInline(ReadOnlyInline):
    model = Session
    fields = ["epoch", "started_at", "runtime_s", "counted_s", "last_post_at", "ended_at"]
    readonly_fields = fields
    max_num = 20

    def get_queryset(self, request: HttpRequest) -> QuerySet[Session]:
        return super().get_queryset(request).order_by("-epoch")


@admin.register(Worker)
class WorkerAdmin(OperatedAdmin):
    list_display = ["head", "status", "quota", "verdict", "slots_held", "gpu", "last_seen_at"]
    list_filter = [("state", ChoicesDropdownFilter), ("account__kind", ChoicesDropdownFilter)]
    search_fields = ["name", "=id", "=instance_ref"]
    list_select_related = ["account", "owner"]
    inlines = [SessionInline]
    fields = [
        ("id", "name"),
        ("account", "owner", "instance_ref"),
        ("state", "state_since", "why"),
        ("quota", "verdict"),
        ("slots", "slots_held"),
        ("gpu_name", "gpu_count", "gpu_mem_bytes", "gpu_util"),
        ("epoch", "check_interval_s", "last_seen_at"),
        ("agent_version", "platform"),
        ("health_url", "created_at"),
    ]
    readonly_fields = ["id", "why", "quota", "verdict", "slots_held"]
    actions_list = ["join"]
    actions_row = ["drain", "undrain", "revoke"]
    actions_detail = ["drain", "undrain", "revoke"]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        plain = super().get_changelist(request, **kwargs)

        class Shown(plain):
            """The page's rows with what was read of them, in a fixed number of queries."""

            def get_results(self, request: HttpRequest) -> None:
                super().get_results(request)
                self.result_list = selectors.shown(self.result_list, now=timezone.now())

        return Shown

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Worker | None:
        worker = super().get_object(request, object_id, from_field)
        return selectors.shown([worker], now=timezone.now())[0] if worker is not None else None

    @display(description=_("worker"), header=True, ordering="name")
    def head(self, worker: Worker) -> list[str]:
        return [worker.name, f"{worker.account.kind} {worker.account.label}"]

    @display(description=_("status"), ordering="state", label=COLOURS)
    def status(self, worker: Worker) -> str:
        return worker.state

    @display(description=_("quota"))
    def quota(self, worker: Worker) -> str:
        return worker.shown.reading.figures()

    @display(description=_("verdict"), label={"safe": "success", "near": "warning"})
    def verdict(self, worker: Worker) -> tuple[str, Any]:
        return ("safe", _("SAFE")) if worker.shown.reading.safe else ("near", _("NEAR LIMIT"))

    @display(description=_("slots"))
    def slots_held(self, worker: Worker) -> str:
        return f"{worker.shown.taken} / {worker.slots}"

    @display(description=_("GPU"))
    def gpu(self, worker: Worker) -> str:
        if not worker.gpu_count:
            return "–"
        return f"{worker.gpu_count} × {worker.gpu_name} ({worker.gpu_mem_bytes / 1024**3:.0f} GiB)"

    @display(description=_("reason"))
    def why(self, worker: Worker) -> str:
        return worker.reason

    @action(
        description=_("Add a worker"),
        icon="add",
        url_path="join",
        permissions=["operate"],
        variant=ActionVariant.PRIMARY,
        dialog={
            "title": _("Add a worker"),
            "description": _("A join token lets a machine enrol. It is good for an account and for a while."),
            "form_class": JoinDialog,
            "form_submit_text": _("Make a token"),
        },
    )
    def join(self, request: HttpRequest, form: JoinDialog) -> HttpResponse:
        fields = form.cleaned_data
        token = enrollment_token_issue(
            account=fields["account"],
            uses=fields["uses"],
            life=timedelta(minutes=fields["minutes"]),
            by=request.user.get_username(),
        )
        line = f"DORMOUSE_JOIN_TOKEN={token} dormouse-agent run --join {settings.PUBLIC_URL}"
        return shown_once(line, what=gettext("On the machine, run:"))

    @action(
        description=_("Drain"),
        icon="hourglass_bottom",
        url_path="drain",
        permissions=["operate"],
        dialog={
            "title": _("Drain this worker?"),
            "description": _("It takes no new jobs and finishes what it has."),
            "form_class": NoteDialog,
            "form_submit_text": _("Drain"),
        },
    )
    def drain(self, request: HttpRequest, form: NoteDialog, object_id: str) -> HttpResponse:
        def do(worker: Worker) -> None:
            workers.worker_drain(worker, reason=form.reason(), by=request.user.get_username())

        return self.act(request, object_id, do, done=gettext("It takes no new jobs."))

    @action(
        description=_("Take back into service"),
        icon="play_arrow",
        url_path="undrain",
        permissions=["operate"],
        dialog={
            "title": _("Take this worker back into service?"),
            "description": _("A draining worker takes jobs again."),
            "form_class": NoteDialog,
            "form_submit_text": _("Take it back"),
        },
    )
    def undrain(self, request: HttpRequest, form: NoteDialog, object_id: str) -> HttpResponse:
        def do(worker: Worker) -> None:
            workers.worker_undrain(worker, reason=form.reason(), by=request.user.get_username())

        return self.act(request, object_id, do, done=gettext("It takes jobs again."))

    @action(
        description=_("Revoke"),
        icon="block",
        url_path="revoke",
        permissions=["operate"],
        variant=ActionVariant.DANGER,
        dialog={
            "title": _("Revoke this worker?"),
            "description": _(
                "Its identity counts for nothing any more, at once and for ever. Its jobs run elsewhere."
            ),
            "form_class": NoteDialog,
            "form_submit_text": _("Revoke it"),
        },
    )
    def revoke(self, request: HttpRequest, form: NoteDialog, object_id: str) -> HttpResponse:
        def do(worker: Worker) -> None:
            workers.worker_revoke(worker, reason=form.reason(), by=request.user.get_username())

        return self.act(request, object_id, do, done=gettext("It is revoked."))
