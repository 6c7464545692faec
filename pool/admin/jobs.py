"""Jobs and their attempts: looked at, and cancelled."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html_join
from django.utils.safestring import mark_safe
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display
from unfold.enums import ActionVariant

from core.admin_base import Dialog, OperatedAdmin, ReadOnlyAdmin, ReadOnlyInline, action
from pool.labels import pairs
from pool.models import Dispatch, Job
from pool.selectors import log_read
from pool.services.checkpoints import checkpoints_of
from pool.services.submission import job_cancel
from pool.states import DispatchState, JobState

COLOURS = {
    JobState.QUEUED: "default",
    JobState.DISPATCHED: "info",
    JobState.RUNNING: "info",
    JobState.SUCCEEDED: "success",
    JobState.FAILED: "danger",
    JobState.CANCELLED: "warning",
}
DISPATCH_COLOURS = {
    DispatchState.RUNG: "default",
    DispatchState.CLAIMED: "info",
    DispatchState.SUCCEEDED: "success",
    DispatchState.FAILED: "danger",
    DispatchState.CANCELLED: "warning",
    DispatchState.INTERRUPTED: "warning",
    DispatchState.WITHDRAWN: "warning",
}
CHECKPOINTS_SHOWN = 10
LOG_END_BYTES = 16 * 1024


class AttemptInline(ReadOnlyInline):
    model = Dispatch
    fields = [
        "number",
        "state",
        "worker",
        "why",
        "claimed_at",
        "finished_at",
        "exit_code",
        "log_bytes",
        "went_on_from",
        "too_late",
    ]
    readonly_fields = fields
    ordering = ["-number"]

    @display(description=_("reason"))
    def why(self, dispatch: Dispatch) -> str:
        return dispatch.reason

    @display(description=_("went on from"))
    def went_on_from(self, dispatch: Dispatch) -> str:
        return dispatch.ref or "–"

    @display(description=_("reported too late"))
    def too_late(self, dispatch: Dispatch) -> str:
        return late_words(dispatch) or "–"


@admin.register(Job)
class JobAdmin(OperatedAdmin):
    list_display = ["name", "owner", "status", "why", "attempt", "priority", "queued_at", "ended_at"]
    list_filter = [("state", ChoicesDropdownFilter), "provider"]
    search_fields = ["name", "=id", "owner__username", "=instance_ref"]
    list_select_related = ["owner", "waiting"]
    inlines = [AttemptInline]
    fields = [
        ("id", "name", "owner"),
        ("state", "state_since", "why", "remedy"),
        "command",
        "script",
        "variables",
        ("checkpoint_every_s", "checkpoints"),
        ("timeout_s", "grace_s", "expected_hours"),
        ("gpu_mem_bytes", "provider", "instance_ref", "labelled"),
        ("priority", "attempt", "max_attempts"),
        ("queued_at", "started_at", "ended_at"),
        ("cancel_requested_at", "cancel_requested_by", "exit_code"),
    ]
    readonly_fields = ["id", "why", "remedy", "labelled", "variables", "checkpoints"]
    actions_row = ["cancel"]
    actions_detail = ["cancel"]

    @display(description=_("status"), ordering="state", label=COLOURS)
    def status(self, job: Job) -> str:
        return job.state

    @display(description=_("reason"))
    def why(self, job: Job) -> str:
        return job.reason

    @display(description=_("what would change it"))
    def remedy(self, job: Job) -> str:
        return job.remedy or "–"

    @display(description=_("labels"))
    def labelled(self, job: Job) -> str:
        return ", ".join(pairs(job.labels)) or "–"

    @display(description=_("environment"))
    def variables(self, job: Job) -> str:
        return ", ".join(sorted(job.env)) or "–"

    @display(description=_("checkpoints"))
    def checkpoints(self, job: Job) -> str:
        rows = checkpoints_of(job)[:CHECKPOINTS_SHOWN] if job.checkpoint_every_s is not None else []
        line = gettext("generation %(generation)d of attempt %(attempt)d: %(state)s, %(reason)s")
        shown = (
            line
            % {"generation": row.generation, "attempt": row.epoch, "state": row.state, "reason": row.reason}
            for row in rows
        )
        return format_html_join(mark_safe("<br>"), "{}", ((text,) for text in shown)) or "–"

    @action(
        description=_("Cancel"),
        icon="cancel",
        url_path="cancel",
        permissions=["operate"],
        variant=ActionVariant.DANGER,
        dialog={
            "title": _("Cancel this job?"),
            "description": _("One that runs is told to end, and is killed after its grace."),
            "form_class": Dialog,
            "form_submit_text": _("Cancel the job"),
        },
    )
    def cancel(self, request: HttpRequest, form: Dialog, object_id: str) -> HttpResponse:
        def do(job: Job) -> None:
            job_cancel(job, by=request.user.get_username())

        return self.act(
            request,
            object_id,
            do,
            done=gettext("It is cancelled, or will be as soon as its worker has ended it."),
        )


@admin.register(Dispatch)
class DispatchAdmin(ReadOnlyAdmin):
    list_display = ["id", "kind", "status", "worker", "job", "why", "rung_at", "finished_at"]
    list_filter = [("state", ChoicesDropdownFilter), "kind"]
    search_fields = ["=id", "=job__id", "=worker__id", "=ref"]
    list_select_related = ["worker", "job"]
    fields = [
        ("id", "kind", "ref", "key"),
        ("worker", "epoch", "slot"),
        ("job", "number"),
        ("state", "state_since", "why"),
        ("fence", "lease_until"),
        ("rung_at", "claimed_at", "finished_at"),
        ("exit_code", "cancel_requested_at"),
        "progress",
        "result",
        "output",
        "too_late",
        "late_output",
    ]
    readonly_fields = ["id", "why", "output", "too_late", "late_output"]

    @display(description=_("status"), ordering="state", label=DISPATCH_COLOURS)
    def status(self, dispatch: Dispatch) -> str:
        return dispatch.state

    @display(description=_("reason"))
    def why(self, dispatch: Dispatch) -> str:
        return dispatch.reason

    @display(description=_("end of its output"))
    def output(self, dispatch: Dispatch) -> str:
        begin = max(0, dispatch.log_bytes - LOG_END_BYTES)
        return log_read(dispatch, offset=begin).data.decode("utf-8", "replace") or "–"

    @display(description=_("reported too late"))
    def too_late(self, dispatch: Dispatch) -> str:
        return late_words(dispatch) or "–"

    @display(description=_("end of its output then"))
    def late_output(self, dispatch: Dispatch) -> str:
        return str(dispatch.late.get("output_tail") or "–")


def late_words(dispatch: Dispatch) -> str:
    """What came after the attempt was over, in a line; empty where nothing did."""
    late = dispatch.late
    if not late:
        return ""
    return gettext("%(outcome)s, exit code %(exit_code)s, at %(at)s: %(reason)s") % {
        "outcome": late.get("outcome"),
        "exit_code": "–" if late.get("exit_code") is None else late["exit_code"],
        "at": late.get("at"),
        "reason": late.get("reason") or "–",
    }
