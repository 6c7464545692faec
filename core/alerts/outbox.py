"""Who is told of an alert, and how often it is tried: durable rows, claimed, sent outside of any transaction, settled.

What is due for one recipient goes out in one message, so that a hundred workers that are lost together are one mail.
A worker that dies between sending and settling has its message sent again when its lease is over; the alerts' ids in
it let a receiver see that.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import F, Min, Q, QuerySet

from core.alerts import channels
from core.alerts.causes import Severity
from core.models import Alert, AlertDelivery, AlertPreference
from core.ticks import step_each

log = logging.getLogger(__name__)

TASK = "core.alerts.deliver"

HOLD_S = 10.0
"""An alert waits this long for others of the same moment."""

TOGETHER = 500
"""Alerts of one message at most."""

LEASE = timedelta(minutes=6)
"""How long whoever sends has a message to itself. A mail server that answers a line at a time, or a library of somebody
else's, may take any time, but no task lives so long (config.celery): whoever still holds a message then is dead."""

BACK_OFF_S = (30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 30_000)
"""How long to wait after the first, second, … failed attempt; a day in all, then it is given up."""

BUDGET_S = 100.0
"""One run begins no further message after this long; the next run is seconds away."""


def deliveries_add(alert: Alert, *, now: datetime) -> int:
    """The alert's deliveries, in the transaction that opens it. Returns how many people and services are told."""
    due = now + timedelta(seconds=HOLD_S)
    rows = [AlertDelivery(alert=alert, channel=c, target=t, next_at=due) for c, t in recipients(alert)]
    AlertDelivery.objects.bulk_create(rows)
    return len(rows)


def recipients(alert: Alert) -> list[tuple[str, str]]:
    """(channel, target) of everybody who is told: its owner as she prefers, and the site."""
    told: dict[tuple[str, str], None] = {}
    severity = Severity.of(alert.severity)
    if settings.ALERT_MAIL and _owner_wants_mail(alert, severity):
        told["email", alert.owner.email] = None
    if severity >= Severity.of(settings.ALERT_LEAST_SEVERITY):
        told.update(dict.fromkeys(("email", address) for address in settings.ALERT_EMAILS))
        told.update(dict.fromkeys(("webhook", channels.label(url)) for url in settings.ALERT_WEBHOOKS))
        told.update(dict.fromkeys(("apprise", channels.label(url)) for url in settings.ALERT_APPRISE))
    return list(told)


def _owner_wants_mail(alert: Alert, severity: Severity) -> bool:
    owner = alert.owner
    if owner is None or not owner.is_active or not owner.email:
        return False
    wants = preference_of(owner.pk)
    return wants.email and severity >= Severity.of(wants.least_severity)


def preference_of(user_id: int) -> AlertPreference:
    """What the person chose, or what counts where she chose nothing (not stored then)."""
    return AlertPreference.objects.filter(pk=user_id).first() or AlertPreference(user_id=user_id)


def deliveries_send(*, now: datetime, budget_s: float = BUDGET_S) -> int:
    """Send what is due, a message for each recipient; returns how many alerts were delivered.

    Two at once are safe: each delivery is claimed by one of them.
    """
    started_s = time.monotonic()
    delivered = 0

    def message(group: tuple[str, str, datetime]) -> None:
        nonlocal delivered
        passed_s = time.monotonic() - started_s
        if passed_s <= budget_s:
            # Those before it took their time: it has all of its lease from now on.
            lease_until = now + timedelta(seconds=passed_s) + LEASE
            delivered += _message(*group[:2], now=now, lease_until=lease_until)

    groups = _due(now).values_list("channel", "target").annotate(since=Min("next_at")).order_by("since")
    step_each(message, list(groups))
    return delivered


def _due(now: datetime) -> QuerySet[AlertDelivery]:
    free = Q(lease_until__isnull=True) | Q(lease_until__lte=now)
    return AlertDelivery.objects.filter(free, next_at__lte=now).order_by()


def _message(channel: str, target: str, *, now: datetime, lease_until: datetime) -> int:
    claim = secrets.token_hex(16)
    due = _due(now).filter(channel=channel, target=target).order_by("next_at", "pk")
    ids = list(due.values_list("pk", flat=True)[:TOGETHER])
    if (
        not _due(now)
        .filter(pk__in=ids)
        .update(claim=claim, lease_until=lease_until, attempts=F("attempts") + 1)
    ):
        return 0
    mine = AlertDelivery.objects.filter(claim=claim)
    rows = list(mine.select_related("alert__owner").order_by("alert__opened_at", "pk"))
    settled = {"claim": "", "lease_until": None}
    tired = [row for row in rows if row.attempts > len(BACK_OFF_S) + 1]
    if tired:
        # One that fails is given up before that: nobody has lived to see how these went.
        cut_off = channels.NotSent("every attempt was cut off", for_good=True)
        _put_off(mine, tired, cut_off, now=now, settled=settled)
        rows = [row for row in rows if row not in tired]
    if not rows:
        return 0
    try:
        channels.send(channel, target, [row.alert for row in rows], now=now)
    except channels.NotSent as error:
        log.warning("alerts=%d not sent by %s to %s: %s", len(rows), channel, target, error)
        _put_off(mine, rows, error, now=now, settled=settled)
        return 0
    log.info("alerts=%d sent by %s to %s", len(rows), channel, target)
    return mine.update(next_at=None, sent_at=now, error="", **settled)


def _put_off(
    mine: QuerySet[AlertDelivery],
    rows: Sequence[AlertDelivery],
    error: channels.NotSent,
    *,
    now: datetime,
    settled: dict[str, object],
) -> None:
    text = str(error)[:300]
    for attempts in {row.attempts for row in rows}:
        same = mine.filter(attempts=attempts)
        if error.for_good or attempts > len(BACK_OFF_S):
            log.error("alerts given up by %s to %s: %s", rows[0].channel, rows[0].target, text)
            same.update(next_at=None, given_up_at=now, error=text, **settled)
        else:
            again = now + timedelta(seconds=BACK_OFF_S[attempts - 1])
            same.update(next_at=again, error=text, **settled)
