"""The books: which hours count in which week of which account, proven or estimated, and what the provider says of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from core.bulk import add_rows
from pool.growth import Growth, Stretch
from pool.models import AccountWeek, Session, Worker
from pool.sessions import session_known, silent_until
from pool.usage import limits_of
from pool.weeks import WeekRule, pieces

log = logging.getLogger(__name__)

USED, ESTIMATED = "used_s", "estimated_s"
SINCE = {USED: "since_s", ESTIMATED: "since_estimated_s"}


@dataclass(frozen=True, kw_only=True)
class Booking:
    """A stretch of time that counts (sign 1), or no longer counts (sign -1). column: USED or ESTIMATED."""

    account_id: str
    rule: WeekRule
    stretch: Stretch
    column: str = USED
    sign: int = 1


def bookings_of(grown: Growth, *, account_id: str, rule: WeekRule) -> list[Booking]:
    """What a report's growth changes in the books of its account."""
    return [
        Booking(account_id=account_id, rule=rule, stretch=stretch, column=column, sign=sign)
        for column, changes in ((USED, grown.proven), (ESTIMATED, grown.estimates))
        for stretch, sign in changes
    ]


def books_write(bookings: Iterable[Booking]) -> None:
    """Add to the accounts' weeks, in the caller's transaction. One query and one statement, whatever the number."""
    cut = [
        (booking, (booking.account_id, week), begin, end)
        for booking in bookings
        for week, begin, end in pieces(*booking.stretch, booking.rule)
    ]
    if not cut:
        return
    official = _official_at({key for _, key, _, _ in cut})
    sums: dict[tuple[str, datetime], dict[str, float]] = {}
    for booking, key, begin, end in cut:
        row = sums.setdefault(key, dict.fromkeys((USED, ESTIMATED, *SINCE.values()), 0.0))
        row[booking.column] += booking.sign * (end - begin).total_seconds()
        known_at = official.get(key)
        if known_at is not None and end > known_at:
            after_s = (end - max(begin, known_at)).total_seconds()
            row[SINCE[booking.column]] += booking.sign * after_s
    add_rows(
        AccountWeek,
        [{"account": account, "starts_at": week, **row} for (account, week), row in sorted(sums.items())],
        match=("account", "starts_at"),
    )


def _official_at(keys: set[tuple[str, datetime]]) -> dict[tuple[str, datetime], datetime]:
    """Until when the provider's own figure holds. Locked: a newer one waits until what is booked here is in."""
    accounts, weeks = {account for account, _ in keys}, {week for _, week in keys}
    rows = AccountWeek.objects.select_for_update().filter(
        account__in=accounts, starts_at__in=weeks, official_at__isnull=False
    )
    return {
        (account, week): at
        for account, week, at in rows.order_by("pk").values_list("account_id", "starts_at", "official_at")
    }


def session_end(worker: Worker, *, at: datetime) -> None:
    """Close the worker's open sessions: they ran until `at` at the latest. What is not proven of a worker that had
    vanished is booked as estimated, and taken back should the session turn out to go on."""
    with transaction.atomic():
        for row in Session.objects.select_for_update().filter(worker=worker, ended_at__isnull=True):
            session = session_known(row, at=at)
            end = silent_until(session, worker, until=at)
            columns: dict[str, datetime] = {"ended_at": at}
            if end is not None:
                begin = max(session.proven_until, session.estimated_until or session.proven_until)
                columns["estimated_until"] = end
                rule = limits_of(worker.account).week
                books_write(
                    [Booking(account_id=worker.account_id, rule=rule, stretch=(begin, end), column=ESTIMATED)]
                )
                log.info(
                    "worker=%s epoch=%d closed estimated_h=%.2f until=%s",
                    worker.pk, row.epoch, (end - begin).total_seconds() / 3600, end,
                )  # fmt: skip
            Session.objects.filter(pk=row.pk).update(**columns)
