"""The books: which hours count in which week of which account, proven or estimated, and what the provider says of them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction

from core.bulk import add_rows
from pool.growth import Growth, Stretch
from pool.models import AccountUse, AccountWeek, Session, Worker
from pool.sessions import session_known, silent_until
from pool.usage import limits_of
from pool.weeks import WeekRule, pieces, quarters, week_end

log = logging.getLogger(__name__)

USED, ESTIMATED = "used_s", "estimated_s"
SINCE = {USED: "since_s", ESTIMATED: "since_estimated_s"}

FIGURE_READ = timedelta(days=8)
"""No week is longer: a provider's figure for one that began before that is read no more."""


@dataclass(frozen=True, kw_only=True)
class Booking:
    """A stretch of time that counts (sign 1), or no longer counts (sign -1). column: USED or ESTIMATED.

    shared: it is of a worker of the shared pool, not of a rented box.
    """

    account_id: str
    rule: WeekRule
    stretch: Stretch
    column: str = USED
    sign: int = 1
    shared: bool = True


def bookings_of(grown: Growth, *, worker: Worker, rule: WeekRule) -> list[Booking]:
    """What a report's growth changes in the books of its worker's account."""
    shared = not worker.instance_ref
    return [
        Booking(
            account_id=worker.account_id, rule=rule, stretch=stretch, column=column, sign=sign, shared=shared
        )
        for column, changes in ((USED, grown.proven), (ESTIMATED, grown.estimates))
        for stretch, sign in changes
    ]


def books_write(bookings: Iterable[Booking]) -> None:
    """Add to the accounts' hours and weeks, in the caller's transaction. A query and two statements, whatever the number."""
    changes = list(bookings)
    cut = [
        (booking, week, begin, end)
        for booking in changes
        for week, begin, end in pieces(*booking.stretch, booking.rule)
    ]
    if not cut:
        return
    official = _official_at(
        {booking.account_id for booking in changes}, since=min(begin for _, _, begin, _ in cut) - FIGURE_READ
    )
    sums: dict[tuple[str, datetime], dict[str, float]] = {}

    def week_of(account_id: str, week: datetime) -> dict[str, float]:
        return sums.setdefault((account_id, week), dict.fromkeys((USED, ESTIMATED, *SINCE.values()), 0.0))

    for booking, week, begin, end in cut:
        week_of(booking.account_id, week)[booking.column] += booking.sign * (end - begin).total_seconds()
        # Beside the figure, whichever week that was said for: the reset may have been moved since.
        told_for, known_at = official.get(booking.account_id, (week, end))
        if end > known_at and begin < week_end(told_for, booking.rule):
            after_s = (end - max(begin, known_at)).total_seconds()
            week_of(booking.account_id, told_for)[SINCE[booking.column]] += booking.sign * after_s
    _hours_add(changes)
    add_rows(
        AccountWeek,
        [{"account": account, "starts_at": week, **row} for (account, week), row in sorted(sums.items())],
        match=("account", "starts_at"),
    )


def _hours_add(bookings: Iterable[Booking]) -> None:
    sums: dict[tuple[str, datetime], dict[str, float]] = {}
    for booking in bookings:
        for quarter, seconds in quarters(*booking.stretch):
            row = sums.setdefault((booking.account_id, quarter), {USED: 0.0, ESTIMATED: 0.0, "shared_s": 0.0})
            row[booking.column] += booking.sign * seconds
            row["shared_s"] += booking.sign * seconds * booking.shared
    rows = [{"account": account, "at": at, **row} for (account, at), row in sorted(sums.items())]
    add_rows(AccountUse, rows, match=("account", "at"))


def _official_at(accounts: Collection[str], *, since: datetime) -> dict[str, tuple[datetime, datetime]]:
    """Account id -> for which week its provider last gave a figure, and until when that holds. Locked: a newer one
    waits until what is booked here is in."""
    rows = AccountWeek.objects.select_for_update().filter(
        account__in=accounts, starts_at__gt=since, official_at__isnull=False
    )
    told = rows.order_by("official_at", "pk").values_list("account_id", "starts_at", "official_at")
    return {account: (week, at) for account, week, at in told}


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
                books_write(
                    [
                        Booking(
                            account_id=worker.account_id,
                            rule=limits_of(worker.account).week,
                            stretch=(begin, end),
                            column=ESTIMATED,
                            shared=not worker.instance_ref,
                        )
                    ]
                )
                log.info(
                    "worker=%s epoch=%d closed estimated_h=%.2f until=%s",
                    worker.pk, row.epoch, (end - begin).total_seconds() / 3600, end,
                )  # fmt: skip
            Session.objects.filter(pk=row.pk).update(**columns)
