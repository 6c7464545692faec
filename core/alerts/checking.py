"""What is wrong against what stands: alerts are opened, resolved, and acknowledged here and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial

from django.db import IntegrityError, transaction

from core.alerts import outbox
from core.alerts.causes import Finding, Severity, Source, sources
from core.alerts.states import AlertState
from core.doorbell import ring
from core.errors import TransitionRefused
from core.models import Alert
from core.reasons import Reason, because
from core.ticks import step_each
from core.transitions import advance, event_add

log = logging.getLogger(__name__)

AT_ONCE = 200
"""Alerts of one source that one run opens, and as many that it resolves: the next run is seconds away."""

SOON = timedelta(minutes=30)
"""A cause that comes back this soon after its alert was resolved is the same trouble: that alert is opened again."""

KEPT = timedelta(days=365)
"""How long a resolved alert is kept."""


def alerts_check(*, now: datetime) -> int:
    """Ask every source and open and resolve what follows; returns how many alerts were moved.

    Two at once are safe: one alert for each cause and subject is the database's rule, and each is moved by one guarded
    UPDATE. A source that raises resolves nothing; the others are asked all the same.
    """
    moved = 0

    def look(source: Source) -> None:
        nonlocal moved
        moved += source_check(source, now=now)

    step_each(look, sources())
    _forget(now)
    if moved:
        ring(outbox.TASK, after_s=outbox.HOLD_S)
    return moved


def source_check(source: Source, *, now: datetime) -> int:
    """One source: what it names and has no alert gets one; what stands and it no longer names is resolved."""
    found = {finding.key: finding for finding in source.look(now)}
    standing = {
        (cause, subject_type, subject_id): pk
        for pk, cause, subject_type, subject_id in Alert.objects.filter(
            resolved_at__isnull=True, cause__in=list(source.causes)
        ).values_list("pk", "cause", "subject_type", "subject_id")
    }
    new = [found[key] for key in sorted(found.keys() - standing.keys())[:AT_ONCE]]
    gone = [standing[key] for key in sorted(standing.keys() - found.keys())[:AT_ONCE]]
    moved = step_each(lambda finding: alert_open(finding, source.causes[finding.reason.code], now=now), new)
    return moved + step_each(partial(_resolve, now=now), _rows(gone))


def alert_open(finding: Finding, severity: Severity, *, now: datetime) -> Alert | None:
    """The alert for a finding: a new one with its deliveries, or a recent one opened again. None: one stands already."""
    cause, subject_type, subject_id = finding.key
    same = Alert.objects.filter(cause=cause, subject_type=subject_type, subject_id=subject_id)
    recent = same.filter(resolved_at__gt=now - SOON).order_by("-resolved_at").first()
    try:
        with transaction.atomic():
            if recent is not None:
                unseen = {"acknowledged_at": None, "acknowledged_by": ""}
                back = because("alert_cause_back")
                advance(recent, AlertState.OPEN, reason=back, now=now, resolved_at=None, **unseen)
                return recent
            alert = Alert.objects.create(
                cause=cause,
                params=dict(finding.reason.params),
                severity=severity.word,
                subject_type=subject_type,
                subject_id=subject_id,
                owner_id=finding.owner_id,
                state=AlertState.OPEN,
                state_since=now,
                opened_at=now,
                **Alert.reason_columns(finding.reason),
            )
            event_add(alert, "alert_opened", reason=finding.reason, now=now, to_state=AlertState.OPEN)
            outbox.deliveries_add(alert, now=now)
    except (IntegrityError, TransitionRefused):
        # Another beat's check was faster. What else might have gone wrong shows when there is still none.
        if same.filter(resolved_at__isnull=True).exists():
            return None
        raise
    log.log(
        logging.ERROR if severity is Severity.CRITICAL else logging.WARNING,
        "alert=%s %s",
        alert.pk,
        alert.message,
    )
    return alert


def alert_acknowledge(alert: Alert, *, by: str, reason: Reason | None = None, now: datetime) -> Alert:
    """Somebody knows. Doing it again changes nothing; TransitionRefused where its cause has gone meanwhile."""
    if alert.state != AlertState.OPEN:
        alert.refresh_from_db()
    if alert.state == AlertState.ACKNOWLEDGED:
        return alert
    advance(
        alert,
        AlertState.ACKNOWLEDGED,
        reason=reason or because("asked", by=by),
        by=by,
        now=now,
        acknowledged_at=now,
        acknowledged_by=by,
    )
    return alert


def _rows(ids: list[str]) -> Iterable[Alert]:
    return Alert.objects.filter(pk__in=ids).order_by("pk")


def _resolve(alert: Alert, *, now: datetime) -> None:
    try:
        advance(alert, AlertState.RESOLVED, reason=because("alert_cause_gone"), now=now, resolved_at=now)
    except TransitionRefused as refused:
        log.info("alert=%s not resolved by this look: %s", alert.pk, refused)


def _forget(now: datetime) -> None:
    old = Alert.objects.filter(resolved_at__lt=now - KEPT).order_by("resolved_at")
    ids = list(old.values_list("pk", flat=True)[:AT_ONCE])
    if ids:
        Alert.objects.filter(pk__in=ids).delete()
