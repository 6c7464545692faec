"""What a provider itself says of an account's week: it wins over what is counted here, and the difference is shown."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db import transaction
from django.db.models import F

from core.models import Event
from core.reasons import because
from pool.models import Account, AccountWeek, Session, Worker
from pool.services.books import session_end
from pool.services.reading_log import reading_log
from pool.services.standings import standings_expire
from pool.sessions import counted_after, overlap_s, running
from pool.states import LISTENING, WorkerState
from pool.usage import limits_of, readings, week_use, workers_lean
from pool.weeks import week_start

log = logging.getLogger(__name__)

WEEK = timedelta(days=7)
WORTH_AN_EVENT_S = 360.0
"""A difference of a tenth of an hour is told in the account's history, once for each time that it changes by as much."""


@dataclass(frozen=True, kw_only=True)
class Official:
    """GPU time of an account's present week in seconds, as its provider says; None: it did not.

    used_s: of sessions that are over. reserved_s: held for those that run, all that they may take. refresh_at: the next
    reset.
    """

    used_s: float | None = None
    reserved_s: float | None = None
    total_s: float | None = None
    refresh_at: datetime | None = None


def official_take(*, account: Account, said: Official, at: datetime) -> AccountWeek | None:
    """Let what the provider said at `at` count: limit and reset become the account's data, the hours used its week's.

    at: when the provider was asked. What ran then has used as much as is counted here, and no more than is reserved; what
    is counted here of the time after that, even before its answer is taken, is added to it. Where nothing is reserved
    nothing runs: sessions of lost workers are over, and no longer estimated. Returns the week; None where the hours were not said or a later figure is known. One transaction.
    """
    with transaction.atomic():
        # No key: whoever books hours meanwhile names the account.
        account = Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        workers = workers_lean(Worker.objects.filter(account=account, state__in=LISTENING))
        before = readings(workers, now=at)
        _limits_take(account, said, at=at)
        week = _figure_take(account, said, at=at) if said.used_s is not None else None
        for worker in workers:
            worker.account = account
        after = readings(workers, now=at)
        for worker in workers:
            if after[worker.pk].is_news(before[worker.pk]):
                reading_log(worker, after[worker.pk])
    return week


def _figure_take(account: Account, said: Official, *, at: datetime) -> AccountWeek | None:
    # Nothing is booked meanwhile. Sessions before weeks, as everywhere: who locks them the other way round may wait for
    # ever.
    theirs = Session.objects.filter(worker__account=account, epoch=F("worker__epoch"))
    list(theirs.select_for_update(of=("self",)).order_by("pk").values_list("pk"))
    starts_at = week_start(at, limits_of(account).week)
    since_s, since_estimated_s = counted_after(account, at=at)
    own_s = 3600 * week_use([account], now=at)[account.pk].own_h - since_s - since_estimated_s
    if said.reserved_s == 0:
        _close_lost(account, at=at)
    week, _ = AccountWeek.objects.select_for_update().get_or_create(account=account, starts_at=starts_at)
    if week.official_at is not None and week.official_at >= at:
        return None
    part_s = overlap_s(running(account, at=at), begin=starts_at, end=at)
    running_s = part_s if said.reserved_s is None else min(part_s, said.reserved_s)
    before_s = None if week.official_s is None or week.own_s is None else week.official_s - week.own_s
    week.official_s, week.official_at, week.own_s = (said.used_s or 0.0) + running_s, at, own_s
    week.since_s, week.since_estimated_s = since_s, since_estimated_s
    week.save(update_fields=["official_s", "official_at", "own_s", "since_s", "since_estimated_s"])
    difference_s = week.official_s - own_s
    if abs(difference_s - (before_s or 0.0)) >= WORTH_AN_EVENT_S:
        reason = because("week_corrected", official_h=week.official_s / 3600, own_h=own_s / 3600)
        _event(account, "week_corrected", reason, at)
        log.warning("account=%s %s", account.pk, reason)
    standings_expire([account.pk])
    return week


def _limits_take(account: Account, said: Official, *, at: datetime) -> None:
    found: dict[str, Any] = {}
    if said.total_s is not None:
        found["weekly_limit_h"] = said.total_s / 3600
    if said.refresh_at is not None and at < said.refresh_at <= at + WEEK:
        found |= _reset(said.refresh_at, account.reset_zone)
    changed = {name: value for name, value in found.items() if getattr(account, name) != value}
    if not changed:
        return
    for name, value in changed.items():
        setattr(account, name, value)
    Account.objects.filter(pk=account.pk).update(**changed)
    reason = because("limits_official", changes=", ".join(f"{k}={v}" for k, v in sorted(changed.items())))
    _event(account, "limits_official", reason, at)
    log.info("account=%s %s", account.pk, reason)


def _reset(refresh_at: datetime, zone: str) -> dict[str, Any]:
    """The reset as the account's own zone's clock shows it; in UTC where that is no full hour, or where the clocks
    change: a provider's week has always as many hours, and would begin an hour off after the change."""
    place = ZoneInfo(zone)
    local = refresh_at.astimezone(place)
    year = {(refresh_at + week * WEEK).astimezone(place).utcoffset() for week in range(53)}
    if local.minute or local.second or len(year) > 1:
        zone, local = "UTC", refresh_at.astimezone(ZoneInfo("UTC"))
    return {"reset_weekday": local.weekday(), "reset_hour": local.hour, "reset_zone": zone}


def _close_lost(account: Account, *, at: datetime) -> None:
    """Nothing runs there any more: the provider has counted these sessions, so that nothing of them is estimated."""
    lost = Session.objects.filter(
        last_post_at__lt=at,
        worker__account=account,
        worker__state=WorkerState.LOST,
        epoch=F("worker__epoch"),
        ended_at__isnull=True,
    )
    for row in lost.select_related("worker"):
        row.worker.account = account
        session_end(row.worker, at=at)


def _event(account: Account, code: str, reason: Any, at: datetime) -> None:
    Event.objects.create(
        at=at,
        subject_type="account",
        subject_id=account.pk,
        code=code,
        owner_id=account.owner_id,
        reason_code=reason.code,
        reason_params=dict(reason.params),
    )
