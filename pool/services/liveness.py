"""Silence: posts that are overdue, leases that ran out, bells that nobody answered, states past their time.

Only the agents' silence counts, not our own: whatever waits for something to be heard waits anew from the moment at
which agents could be heard again, that is since when this tick runs, a gateway listens to the broker, and what it takes
is stored.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta

import redis
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from core import broker
from core.doorbell import ring_worker
from core.errors import TransitionRefused
from core.models import TickRun
from core.reasons import because
from core.ticks import GAP_S, step_each, tick
from gateway import keys
from pool.models import Dispatch, Worker
from pool.services.dispatches import dispatch_withdraw, lease_s
from pool.services.losing import workers_silent
from pool.services.publish import publish_all
from pool.services.workers import overdue_at, worker_lost, worker_offline
from pool.states import LISTENING, OPEN, DispatchState, WorkerState

log = logging.getLogger(__name__)

TICK = "pool.workers_tick"
INTAKE = "pool.intake_tick"
GATEWAY = "gateway"
"""Marked like a tick whenever a gateway is there: its posts and polls are how agents are heard."""

AT_ONCE = 500
"""Rows of one kind in one run: the next run is seconds away."""

DRAIN_AGAIN = timedelta(minutes=10)
"""A drain that is past its time, of a worker that still finishes something, is looked at again after this."""

SILENT_AT_ONCE, SILENT_IN_ALL = 1_000, 20_000
"""Silent workers in one transaction, and in one run: a network that fails takes thousands with it at the same moment."""

SILENT_FOR_S = 8.0
"""A run that lasted longer than core.ticks.GAP_S would count as our own absence, and everybody would be waited for anew."""

RING_AGAIN_S = 5.0
"""A bell is rung again after this, then after twice as long, and so on: a list of rings is no place to wait."""


def workers_check(*, now: datetime | None = None) -> int:
    """One run of the tick; returns how many rows it moved. Two at once are safe: every move is guarded."""
    now = now or timezone.now()
    with tick(TICK, now=now) as running_since:
        resumed_at = _listening_since(running_since, now=now)
        _forgive(now=now, resumed_at=resumed_at)
        moved = _silent(now=now, resumed_at=resumed_at)
        moved += step_each(lambda row: _lease_over(row, now=now, resumed_at=resumed_at), _leases(now))
        moved += step_each(lambda row: _orphan(row, now=now), _orphans())
        moved += step_each(
            lambda row: _too_long(row, now=now), _past_deadline(now=now, resumed_at=resumed_at)
        )
        moved += step_each(lambda row: _ring_again(row, now=now), _unanswered(now))
        publish_all(now=now)
    return moved


def _listening_since(running_since: datetime, *, now: datetime) -> datetime:
    """Since when agents could be heard without a gap; `now` while they cannot."""
    try:
        gateways = dict(broker.client().pubsub_numsub(keys.RINGS)).get(keys.RINGS, 0)
    except redis.RedisError as error:
        log.warning("broker away, nobody's silence counts: %s", error)
        return now
    if not gateways:
        log.warning("no gateway listens to the broker, nobody's silence counts")
        return now
    intake = TickRun.objects.filter(name=INTAKE).first()
    if intake is not None and not _stored_lately(intake, now=now):
        log.warning("status posts are not stored, nobody's silence counts")
        return now
    with tick(GATEWAY, now=now) as gateway_since:
        return max(running_since, gateway_since, intake.resumed_at if intake else running_since)


def _stored_lately(intake: TickRun, *, now: datetime) -> bool:
    """Its runs end well, not only begin: one that fails or hangs leaves every post in the stream."""
    return intake.finished_at is not None and intake.finished_at >= now - timedelta(seconds=GAP_S)


# -- status posts -----------------------------------------------------------------------------------


def _overdue(now: datetime) -> list[str]:
    due = Worker.objects.filter(state__in=LISTENING, due_at__lt=now).order_by("due_at")
    return list(due.values_list("pk", flat=True)[:SILENT_IN_ALL])


def _forgive(*, now: datetime, resumed_at: datetime) -> None:
    """What fell due while we were away falls due anew, counted from our return: one statement for each interval in use."""
    waiting = Worker.objects.filter(state__in=LISTENING, due_at__lt=now).exclude(last_seen_at__gte=resumed_at)
    for interval_s in set(waiting.order_by().values_list("check_interval_s", flat=True).distinct()):
        anew = overdue_at(resumed_at, check_interval_s=interval_s)
        if anew > now:
            waiting.filter(check_interval_s=interval_s).update(due_at=anew)


def _silent(*, now: datetime, resumed_at: datetime) -> int:
    """All whose posts are overdue, some thousand in a transaction; one of them that raises holds up no other."""
    moved = 0
    due = _overdue(now)
    until_s = time.monotonic() + SILENT_FOR_S
    for start in range(0, len(due), SILENT_AT_ONCE):
        if start and time.monotonic() >= until_s:
            break
        ids = due[start : start + SILENT_AT_ONCE]
        try:
            moved += workers_silent(ids, now=now, resumed_at=resumed_at)
        except Exception:
            log.exception("of %d silent workers one cannot be moved: one by one", len(ids))
            moved += step_each(lambda pk: workers_silent([pk], now=now, resumed_at=resumed_at), ids)
    return moved


# -- dispatches -------------------------------------------------------------------------------------


def _leases(now: datetime) -> list[Dispatch]:
    over = Dispatch.objects.filter(state=DispatchState.CLAIMED, lease_until__lt=now)
    return list(over.select_related("worker").order_by("lease_until")[:AT_ONCE])


def _lease_over(row: Dispatch, *, now: datetime, resumed_at: datetime) -> None:
    life_s = lease_s(row.worker.check_interval_s)
    if resumed_at + timedelta(seconds=life_s) > now:
        return
    with transaction.atomic():
        still = Dispatch.objects.select_for_update().filter(
            pk=row.pk, state=DispatchState.CLAIMED, lease_until__lt=now
        )
        if still.exists():
            dispatch_withdraw(row, reason=because("lease_over", lease_s=life_s), now=now)


def _orphans() -> list[Dispatch]:
    """Open dispatches of a worker that is away or in another epoch by now: given in the moment in which it left."""
    theirs = Worker.objects.filter(pk=OuterRef("worker_id"), epoch=OuterRef("epoch"), state__in=LISTENING)
    rows = Dispatch.objects.filter(~Exists(theirs), state__in=OPEN).select_related("worker").order_by()
    return list(rows[:AT_ONCE])


def _orphan(row: Dispatch, *, now: datetime) -> None:
    dispatch_withdraw(row, reason=because("worker_away", state=row.worker.state), now=now)


def _unanswered(now: datetime) -> list[Dispatch]:
    rung = Dispatch.objects.filter(
        state=DispatchState.RUNG,
        rung_at__lt=now - timedelta(seconds=RING_AGAIN_S),
        worker__state__in=LISTENING,
    )
    return list(rung.order_by("rung_at")[:AT_ONCE])


def _ring_again(row: Dispatch, *, now: datetime) -> None:
    if now - row.rung_at < row.rung_at - row.state_since:
        return
    again = Dispatch.objects.filter(pk=row.pk, state=DispatchState.RUNG, rung_at=row.rung_at)
    if again.update(rung_at=now):
        ring_worker(row.worker_id, row.pk)


# -- states past their time -------------------------------------------------------------------------


def _past_deadline(*, now: datetime, resumed_at: datetime) -> list[Worker | Dispatch]:
    if now - resumed_at < timedelta(minutes=1):
        return []
    workers = Worker.objects.filter(
        state__in=(WorkerState.DRAINING, WorkerState.SUSPECT), state_deadline__lt=now
    )
    dispatches = Dispatch.objects.filter(state=DispatchState.RUNG, state_deadline__lt=now)
    return [*workers[:AT_ONCE], *dispatches[:AT_ONCE]]


def _too_long(row: Worker | Dispatch, *, now: datetime) -> None:
    limit = row.TABLE.limits[row.state]
    try:
        if isinstance(row, Dispatch):
            dispatch_withdraw(row, reason=because("dispatch_unanswered", minutes=limit.minutes), now=now)
        elif limit.then == WorkerState.LOST:
            reason = because("time_limit", state=row.state, minutes=limit.minutes)
            worker_lost(row, reason=reason, now=now)
        elif row.dispatches.filter(epoch=row.epoch, state=DispatchState.CLAIMED).exists():
            # What it has begun, it finishes: whether it still does, its posts and leases say.
            same = Worker.objects.filter(pk=row.pk, epoch=row.epoch, state=row.state)
            same.update(state_deadline=now + DRAIN_AGAIN)
        else:
            worker_offline(row, reason=because("drain_over", minutes=limit.minutes), now=now)
    except TransitionRefused as refused:
        log.info("%s=%s has moved on: %s", row.SUBJECT, row.pk, refused)
