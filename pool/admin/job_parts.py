"""What a job's page shows beside its row: the jobs around it, its files, what it left, the end of its output."""

from __future__ import annotations

from collections.abc import Iterable

from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext

from core.errors import DomainError
from pool.models import Dispatch, Job
from pool.selectors_jobs import files_of
from pool.selectors_logs import log_read
from pool.services.checkpoints import checkpoints_of

SHOWN = 50
CHECKPOINTS_SHOWN = 10
LOG_END_BYTES = 16 * 1024


def dependencies_shown(job: Job) -> SafeString:
    """What it comes after, with the states of those."""
    rows = Job.objects.filter(dependants__job=job).only("pk", "name", "state").order_by("pk")
    return _jobs(rows, rows.count())


def dependants_shown(job: Job) -> SafeString:
    """What comes after it."""
    rows = Job.objects.filter(dependencies__on=job).only("pk", "name", "state").order_by("pk")
    return _jobs(rows, rows.count())


def array_shown(job: Job) -> SafeString:
    """Its place among the jobs of its array."""
    if job.array is None:
        return SafeString("–")
    return format_html(
        '<a class="underline" href="{}">{}</a> {}/{}',
        reverse("admin:pool_jobarray_change", args=[job.array_id]),
        job.array,
        job.array_index,
        job.array.count,
    )


def files_shown(job: Job) -> SafeString:
    """What it is given."""
    rows = (
        (
            row.path,
            f"{row.source_job_id}/{row.source_path}" if row.source_job_id else filesizeformat(row.length),
        )
        for row in files_of(job)[:SHOWN]
    )
    return format_html_join(SafeString("<br>"), "{} ({})", rows) or SafeString("–")


def artifacts_shown(job: Job) -> SafeString:
    """What its last attempt has left, each to be fetched."""
    dispatch = _last(job)
    if dispatch is None:
        return SafeString("–")
    if dispatch.files_gone_at is not None:
        return format_html("{}", gettext("They were let go."))
    place = reverse("job-artifacts", args=[job.pk])
    rows = [
        (reverse("job-artifact", args=[job.pk, row.path]), row.path, filesizeformat(row.length), row.sha256)
        for row in dispatch.artifacts.order_by("path")[: SHOWN + 1]
    ]
    listed = format_html_join(
        SafeString("<br>"),
        '<a class="underline" href="{0}" download title="SHA-256 {3}">{1}</a> ({2})',
        rows[:SHOWN],
    )
    if len(rows) > SHOWN:
        more = format_html('<br><a class="underline" href="{}">{}</a>', place, gettext("all of them"))
        listed = format_html("{}{}", listed, more)
    return listed or SafeString("–")


def output_shown(dispatch: Dispatch | None) -> str:
    """The end of its output."""
    if dispatch is None or not dispatch.log_bytes:
        return "–"
    begin = max(0, dispatch.log_bytes - LOG_END_BYTES)
    try:
        return log_read(dispatch, offset=begin, limit=LOG_END_BYTES).data.decode("utf-8", "replace") or "–"
    except DomainError as error:
        return str(error.message)


def job_output_shown(job: Job) -> SafeString:
    """The end of its last attempt's output."""
    return format_html('<pre class="whitespace-pre-wrap break-all">{}</pre>', output_shown(_last(job)))


def _last(job: Job) -> Dispatch | None:
    return job.attempts.order_by("-number").first()


def _jobs(rows: Iterable[Job], count: int) -> SafeString:
    shown = [
        (reverse("admin:pool_job_change", args=[row.pk]), row.name, row.pk, row.state)
        for row in list(rows[:SHOWN])
    ]
    listed = format_html_join(SafeString("<br>"), '<a class="underline" href="{}">{} ({})</a> {}', shown)
    if count > SHOWN:
        more = ngettext("and {count} more", "and {count} more", count - SHOWN).format(count=count - SHOWN)
        listed = format_html("{}<br>{}", listed, more)
    return listed or SafeString("–")


def checkpoints_shown(job: Job) -> SafeString:
    """The generations of its working directory, the newest first."""
    rows = checkpoints_of(job)[:CHECKPOINTS_SHOWN] if job.checkpoint_every_s is not None else []
    line = gettext("generation %(generation)d of attempt %(attempt)d: %(state)s, %(reason)s")
    shown = (
        line % {"generation": row.generation, "attempt": row.epoch, "state": row.state, "reason": row.reason}
        for row in rows
    )
    return format_html_join(SafeString("<br>"), "{}", ((text,) for text in shown)) or SafeString("–")


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
