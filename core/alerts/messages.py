"""How alerts read in a mail, a chat and a webhook."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.urls import reverse

from core.alerts.causes import Severity
from core.alerts.states import AlertState
from core.models import Alert

SHOWN = 50
"""Alerts of one message that are written out for people; a webhook gets all of them."""

TITLE_CHARS = 150


def title(alerts: Sequence[Alert]) -> str:
    """One line: what is worst, and how many more there are."""
    worst = max(alerts, key=lambda alert: Severity.of(alert.severity))
    more = f" (and {len(alerts) - 1} more)" if len(alerts) > 1 else ""
    # A name that somebody chose may hold a line break; a mail's subject may not.
    text = " ".join(f"{worst.severity}: {worst.message}".split())
    return f"[Dormouse] {text[:TITLE_CHARS]}{more}"


def body(alerts: Sequence[Alert], *, links: bool) -> str:
    """A paragraph for each alert, the worst first. links: to the console, for those who may open it."""
    ordered = sorted(alerts, key=lambda alert: -Severity.of(alert.severity))
    parts = [_paragraph(alert, links=links) for alert in ordered[:SHOWN]]
    if len(ordered) > SHOWN:
        parts.append(f"… and {len(ordered) - SHOWN} more.")
    parts.append(f"Dormouse, {settings.PUBLIC_URL}")
    return "\n\n".join(parts) + "\n"


def as_json(alerts: Sequence[Alert], *, now: datetime) -> dict[str, Any]:
    """A webhook's body. An alert that is delivered again, after a crash of ours, has the same id."""
    return {
        "sent_at": _utc(now),
        "alerts": [
            {
                "id": alert.pk,
                "cause": alert.cause,
                "params": alert.params,
                "message": alert.message,
                "severity": alert.severity,
                "state": alert.state,
                "subject": {"type": alert.subject_type, "id": alert.subject_id},
                "owner": alert.owner.get_username() if alert.owner else None,
                "opened_at": _utc(alert.opened_at),
                "resolved_at": _utc(alert.resolved_at) if alert.resolved_at else None,
                "url": console_url(alert),
            }
            for alert in alerts
        ],
    }


def console_url(alert: Alert) -> str:
    return f"{settings.PUBLIC_URL}{reverse('admin:core_alert_change', args=[alert.pk])}"


def _paragraph(alert: Alert, *, links: bool) -> str:
    lines = [
        f"{alert.severity.upper()}: {alert.message}",
        f"{alert.subject_type} {alert.subject_id}, since {_utc(alert.opened_at)}",
    ]
    if alert.state == AlertState.RESOLVED and alert.resolved_at is not None:
        lines.append(f"over since {_utc(alert.resolved_at)}")
    if links:
        lines.append(console_url(alert))
    return "\n".join(lines)


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
