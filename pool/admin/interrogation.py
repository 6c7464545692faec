"""A worker's last answer as its page shows it."""

from __future__ import annotations

from django.contrib.humanize.templatetags.humanize import naturaltime
from django.core.exceptions import ObjectDoesNotExist
from django.utils.translation import gettext

from pool.models import Interrogation, Worker


def interrogation_shown(worker: Worker) -> str:
    """What it said when it was asked, how old that is, and what became of the last question."""
    try:
        row: Interrogation = worker.interrogation
    except ObjectDoesNotExist:
        return gettext("never asked")
    parts = [row.reason]
    if row.answered_at is not None:
        answer = row.answer
        said = [str(answer.get("status") or "?"), *filter(None, [answer.get("gpu")])]
        hours, most = answer.get("sessionRuntimeHours"), answer.get("maxSessionHours")
        if hours is not None:
            said.append(f"{hours:.2f}h" + (f"/{most:g}h" if most else ""))
        parts.append(f"{', '.join(said)} ({naturaltime(row.answered_at)})")
    return "; ".join(parts)
