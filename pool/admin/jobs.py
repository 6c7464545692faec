"""Jobs and their attempts: looked at, and cancelled."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display
from unfold.enums import ActionVariant

from core.admin_base import Dialog, OperatedAdmin, ReadOnlyAdmin, ReadOnlyInline, action
from pool.admin import job_parts
from pool.labels import pairs
from pool.models import Dispatch, Job
from pool.services.cancelling import job_cancel
from pool.states import DispatchState, JobState

COLOURS = {
    JobState.DEFERRED: "default",
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
        return job_parts.late_words(dispatch) or "–"


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
        ("after_policy", "dependencies", "dependants"),
        "array_place",
        "what_command",
        "what_script",
        "variables",
        ("started_in", "given"),
        ("globs", "artifacts_left"),
        "output",
        ("checkpoint_every_s", "checkpoints"),
        ("timeout_s", "grace_s", "expected_hours"),
        ("gpu_mem_bytes", "provider", "instance_ref", "labelled"),
        ("priority", "attempt", "max_attempts"),
        ("retry", "retries", "not_before"),
        ("queued_at", "started_at", "ended_at"),
        ("cancel_requested_at", "cancel_requested_by", "exit_code"),
    ]
    readonly_fields = [
        "id",
        "why",
        "remedy",
        "labelled",
        "variables",
        "dependencies",
        "dependants",
        "array_place",
        "what_command",
        "what_script",
        "started_in",
        "given",
        "globs",
        "artifacts_left",
        "output",
        "checkpoints",
    ]
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
        return ", ".join(sorted(job.work.env)) or "–"

    @display(description=_("command"))
    def what_command(self, job: Job) -> str:
        return str(job.work.command or "–")

    @display(description=_("script"))
    def what_script(self, job: Job) -> str:
        return job.work.script or "–"

    @display(description=_("working directory"))
    def started_in(self, job: Job) -> str:
        return job.work.workdir or "–"

    @display(description=_("comes after"))
    def dependencies(self, job: Job) -> SafeString:
        return job_parts.dependencies_shown(job)

    @display(description=_("come after it"))
    def dependants(self, job: Job) -> SafeString:
        return job_parts.dependants_shown(job)

    @display(description=_("array"))
    def array_place(self, job: Job) -> SafeString:
        return job_parts.array_shown(job)

    @display(description=_("files that it is given"))
    def given(self, job: Job) -> SafeString:
        return job_parts.files_shown(job)

    @display(description=_("artifacts to keep"))
    def globs(self, job: Job) -> str:
        return ", ".join(job.work.artifacts) or "–"

    @display(description=_("artifacts"))
    def artifacts_left(self, job: Job) -> SafeString:
        return job_parts.artifacts_shown(job)

    @display(description=_("end of its output"))
    def output(self, job: Job) -> SafeString:
        return job_parts.job_output_shown(job)

    @display(description=_("checkpoints"))
    def checkpoints(self, job: Job) -> SafeString:
        return job_parts.checkpoints_shown(job)

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
        return job_parts.output_shown(dispatch)

    @display(description=_("reported too late"))
    def too_late(self, dispatch: Dispatch) -> str:
        return job_parts.late_words(dispatch) or "–"

    @display(description=_("end of its output then"))
    def late_output(self, dispatch: Dispatch) -> str:
        return str(dispatch.late.get("output_tail") or "–")
