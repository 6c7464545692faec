"""Status posts in batches: from the stream into samples, workers, sessions, quota and leases, by set-based statements."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from django.db import DatabaseError, transaction
from django.db.models import F
from django.utils import timezone

from agent import wire
from core.bulk import update_rows
from core.errors import TransitionRefused
from core.reasons import because
from core.transitions import event_add
from pool import quota, signals
from pool.growth import Stretch, overdue_s
from pool.models import HAUNTING, Dispatch, Sample, Session, Worker
from pool.services.books import Booking, bookings_of, books_write
from pool.services.dispatches import lease_s
from pool.services.history import days_add
from pool.services.interrogation import posts_answer
from pool.services.publish import orders_publish
from pool.services.reading_log import reading_log
from pool.services.standings import standings_write
from pool.services.stream import Entry, Page, page_read, page_take, page_trim
from pool.services.workers import overdue_at, worker_drains, worker_heard, worker_offline
from pool.sessions import limit_s, session_columns, session_known
from pool.standing import Standing
from pool.states import DispatchState, WorkerState
from pool.usage import limits_of, workers_lean

log = logging.getLogger(__name__)

BATCH = 2_000
BATCHES = 50
"""At most this many batches in one run: the next run is a second away, and a task has a time limit."""

RUNTIME_LIMIT_H = 366 * 24
"""Longer than any session. What an agent says beyond it is cut, because the hours are shared out by week."""

NEW_SESSION_STATES = (WorkerState.OFFLINE, WorkerState.LOST)


class ListenerFailed(Exception):
    """An app that listens to new samples raised. Its part of the transaction is undone, the posts are stored."""


@dataclass
class Heard:
    """One worker in one batch: what is known, then what its posts add to it."""

    worker: Worker
    row: Session | None
    session: quota.Session
    last: Entry
    bookings: list[Booking] = field(default_factory=list)
    proven: list[tuple[Stretch, int]] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    restarted: bool = False
    spoke: bool = False
    """One of the posts, at least, tells how it is now; the others had been under way for long."""


def intake_drain(*, now: datetime | None = None, batch: int = BATCH) -> int:
    """Store what agents have posted; returns how many posts were taken from the stream, whatever became of them.

    Two at once are safe: the cursor moves by a guarded UPDATE in the transaction that stores the batch, so that no post
    is stored twice. A post that cannot be stored is dropped with a log line and never holds up the others.
    """
    taken = 0
    size = batch
    for _ in range(BATCHES):
        moment = now or timezone.now()
        asked = size
        try:
            page = page_read(limit=asked)
        except redis.RedisError as error:
            log.warning("broker away, status posts wait: %s", error)
            break
        if not page.looked_at:
            break
        try:
            if not _store(page, now=moment):
                break  # another drain is at it
        except (DatabaseError, ValueError, OverflowError) as error:
            if size == 1:
                log.exception("status post %s dropped: it cannot be stored", page.last)
                _store(Page(page.cursor, page.last, ()), now=moment)
                size = batch
            else:
                # Whatever is wrong is somewhere in here: halve until it stands alone, and only that one is dropped.
                log.warning(
                    "a batch of %d status posts failed, trying smaller ones: %s", page.looked_at, error
                )
                size = max(1, page.looked_at // 2)
                continue
        page_trim(page)
        taken += page.looked_at
        if page.looked_at < asked:
            break
    return taken


def _store(page: Page, *, now: datetime) -> bool:
    with transaction.atomic():
        if not page_take(page):
            return False
        heard, samples = _read(page.entries, now=now)
        if not heard:
            return True
        Sample.objects.bulk_create(samples)
        _write_workers(heard)
        _write_sessions(heard)
        _write_usage(heard, now=now)
        days_add((key, stretch, sign) for key, one in heard.items() for stretch, sign in one.proven)
        standings = standings_write([one.worker for one in heard.values()], now=now)
        # What arrives late tells nothing of what its worker holds now.
        present = {worker_id: one for worker_id, one in heard.items() if one.spoke}
        posts_answer((one.worker, one.last.post, one.last.at) for one in present.values())
        _renew_leases(present, now=now)
        _lay_ghosts(present, now=now)
        _bring_back(heard, now=now)
        _log_readings(heard, standings, now=now)
        _tell_listeners(samples, now=now)
    return True


def _read(entries: Iterable[Entry], *, now: datetime) -> tuple[dict[str, Heard], list[Sample]]:
    """Fold the posts, in their order, into what is known of their workers. Foreign posts and old epochs are left out.

    Workers and then their sessions are locked, in the order in which everybody takes them: who closes a session has done
    so before it is read here, or waits until it is written.
    """
    rows = list(entries)
    ids = {entry.post.worker_id for entry in rows}
    theirs = Worker.objects.select_for_update(no_key=True).filter(pk__in=ids).order_by("pk")
    workers = {worker.pk: worker for worker in workers_lean(theirs)}
    present = Session.objects.select_for_update(of=("self",)).filter(worker__in=ids, epoch=F("worker__epoch"))
    sessions = {(row.worker_id, row.epoch): row for row in present.order_by("pk")}
    rules = {account.pk: limits_of(account).week for account in {one.account for one in workers.values()}}
    heard: dict[str, Heard] = {}
    samples: list[Sample] = []
    for entry in rows:
        worker = workers.get(entry.post.worker_id)
        if worker is None or not _counts(entry, worker):
            log.info("status post %s of worker=%s dropped: not its epoch", entry.id, entry.post.worker_id)
            continue
        at = min(entry.at, now)
        known = heard.get(worker.pk)
        if known is None:
            row = sessions.get((worker.pk, worker.epoch))
            session = session_known(row, at=at)
            known = heard[worker.pk] = Heard(worker=worker, row=row, session=session, last=entry)
        rule = rules[worker.account_id]
        grown = quota.growth(
            known.session,
            runtime_s=_runtime_s(entry.post),
            at=at,
            rule=rule,
            sent_at=_sent_at(entry.post),
            limit_s=limit_s(worker.account),
            silence_s=overdue_s(worker.check_interval_s, missing=2),
        )
        known.session = grown.session
        known.bookings += bookings_of(grown, worker=worker, rule=rule)
        known.proven += grown.proven
        if grown.late:
            continue
        known.last, known.spoke = entry, True
        known.restarted = known.restarted or grown.restarted
        if grown.gap_s:
            known.gaps_s.append(grown.gap_s)
        samples.append(_sample(worker, entry, at))
    return heard, samples


def _counts(entry: Entry, worker: Worker) -> bool:
    if entry.post.epoch != worker.epoch or not worker.secret_sha256:
        return False
    # Posted before its end became known, read after it: no sign of life.
    return worker.state not in NEW_SESSION_STATES or entry.at > worker.state_since


def _runtime_s(post: wire.StatusPost) -> float | None:
    hours = post.session_runtime_hours
    return 3600 * min(hours, RUNTIME_LIMIT_H) if hours is not None else None


def _sent_at(post: wire.StatusPost) -> datetime | None:
    """When it was sent by the agent's own clock; None where it does not say, or in words that nobody understands."""
    try:
        at = datetime.fromisoformat(post.timestamp or "")
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


KEPT = ("gpus", "cpu_util", "net_bytes_per_s", "disk_free_bytes", "sessions", "jobs")


def _sample(worker: Worker, entry: Entry, at: datetime) -> Sample:
    body = entry.body
    return Sample(
        worker=worker,
        epoch=worker.epoch,
        at=at,
        gpu_util=entry.post.gpu_util,
        status=(entry.post.status or "")[:16],
        readings={name: body[name] for name in KEPT if body.get(name) is not None},
    )


def _write_workers(heard: dict[str, Heard]) -> None:
    seen, changed = [], []
    for worker_id, one in heard.items():
        worker, post = one.worker, one.last.post
        who = {"id": worker_id, "epoch": worker.epoch}
        worker.last_seen_at = one.session.last_post_at
        worker.due_at = overdue_at(worker.last_seen_at, check_interval_s=worker.check_interval_s)
        if one.spoke:
            worker.gpu_util = post.gpu_util
        seen.append(
            {**who, **{name: getattr(worker, name) for name in ("last_seen_at", "due_at", "gpu_util")}}
        )
        machine = _machine(post) if one.spoke else {}
        if any(getattr(worker, name) != value for name, value in machine.items()):
            for name, value in machine.items():
                setattr(worker, name, value)
            changed.append({**who, **{name: getattr(worker, name) for name in MACHINE}})
    update_rows(Worker, seen, match=("id", "epoch"))
    update_rows(Worker, changed, match=("id", "epoch"))


MACHINE = ("health_url", "gpu_name", "gpu_count", "gpu_mem_bytes")


def _machine(post: wire.StatusPost) -> dict[str, Any]:
    """What the post says of the machine itself; what it leaves out stays as it was."""
    said: dict[str, Any] = {}
    if post.health_url is not None:
        said["health_url"] = post.health_url if _is_web(post.health_url) else ""
    if post.gpus:
        said["gpu_name"] = post.gpus[0].name[:80]
        said["gpu_count"] = len(post.gpus)
        said["gpu_mem_bytes"] = min(gpu.mem_total_bytes or 0 for gpu in post.gpus)
    return said


def _is_web(url: str) -> bool:
    return url.startswith(("http://", "https://")) and len(url) <= 200


def _write_sessions(heard: dict[str, Heard]) -> None:
    update_rows(
        Session,
        [{"id": one.row.pk, **session_columns(one.session)} for one in heard.values() if one.row is not None],
        match=("id",),
    )
    Session.objects.bulk_create(
        Session(worker=one.worker, epoch=one.worker.epoch, **session_columns(one.session))
        for one in heard.values()
        if one.row is None
    )


def _write_usage(heard: dict[str, Heard], *, now: datetime) -> None:
    for one in heard.values():
        if one.restarted:
            event_add(one.worker, "session_restarted", reason=because("new_session"), now=now)
        for gap_s in one.gaps_s:
            reason = because("session_gap", gap_h=gap_s / 3600)
            event_add(one.worker, "session_gap", reason=reason, now=now, data={"gap_s": gap_s})
            log.warning("worker=%s %s", one.worker.pk, reason)
    books_write(booking for one in heard.values() for booking in one.bookings)


def _renew_leases(heard: dict[str, Heard], *, now: datetime) -> None:
    listed = {dispatch_id for one in heard.values() for dispatch_id in one.last.post.jobs}
    if not listed:
        return
    by_life: dict[float, list[str]] = {}
    held = Dispatch.objects.filter(pk__in=listed, state=DispatchState.CLAIMED)
    for dispatch_id, worker_id, epoch in held.values_list("pk", "worker_id", "epoch"):
        one = heard.get(worker_id)
        if one is not None and one.worker.epoch == epoch and dispatch_id in one.last.post.jobs:
            by_life.setdefault(lease_s(one.worker.check_interval_s), []).append(dispatch_id)
    for life_s, ids in by_life.items():
        until = now + timedelta(seconds=life_s)
        Dispatch.objects.filter(pk__in=ids, state=DispatchState.CLAIMED).update(lease_until=until)


def _lay_ghosts(heard: dict[str, Heard], *, now: datetime) -> None:
    """Withdrawn work that its worker no longer mentions has stopped there: nothing needs to be ordered any more."""
    gone = []
    for row in Dispatch.objects.filter(**HAUNTING).only("pk", "worker_id", "epoch", "state_since"):
        one = heard.get(row.worker_id)
        if one is None:
            continue
        mentioned = row.epoch == one.worker.epoch and row.pk in one.last.post.jobs
        if not mentioned and one.last.at > row.state_since:
            gone.append(row)
    if gone:
        Dispatch.objects.filter(pk__in=[row.pk for row in gone]).update(finished_at=now)
        orders_publish(row.worker_id for row in gone)


def _bring_back(heard: dict[str, Heard], *, now: datetime) -> None:
    """Whoever posts is there, but for the one whose last word it was, and for what arrives after that."""
    for one in heard.values():
        try:
            if one.last.post.status == wire.ENDED:
                ended_at = min(one.last.at, now)
                worker_offline(one.worker, reason=because("session_ended"), now=now, ended_at=ended_at)
            elif one.spoke or one.worker.state != WorkerState.OFFLINE:
                worker_heard(one.worker, now=now)
                draining = one.last.post.status == wire.DRAINING
                # A post from before it began to drain says nothing of whether it still does.
                if one.spoke and (draining or one.last.at > one.worker.state_since):
                    worker_drains(one.worker, draining=draining, now=now)
        except TransitionRefused as refused:
            log.info("worker=%s not moved by its post: %s", one.worker.pk, refused)


def _log_readings(heard: dict[str, Heard], standings: Mapping[str, Standing], *, now: datetime) -> None:
    """A line of every worker with a quota of hours, when it has used another tenth of one, its verdict is another, or
    an hour has begun: as an operator reads it, and as fields where the log is JSON."""
    if not log.isEnabledFor(logging.INFO):
        return
    grown_s: dict[str, float] = {}
    for one in heard.values():
        for booking in one.bookings:
            begin, end = booking.stretch
            key = booking.account_id
            grown_s[key] = grown_s.get(key, 0.0) + booking.sign * (end - begin).total_seconds()
    for worker_id, standing in standings.items():
        one, reading = heard[worker_id], standing.reading
        if reading.model not in (quota.SESSION, quota.WEEK):
            continue
        before = quota.reading(
            limits_of(one.worker.account),
            session_runtime_h=one.row.runtime_s / 3600 if one.row is not None else 0.0,
            week_used_h=reading.used - grown_s.get(one.worker.account_id, 0.0) / 3600,
        )
        if reading.is_news(before) or _first_of_hour(one, now=now):
            reading_log(one.worker, reading)


def _first_of_hour(one: Heard, *, now: datetime) -> bool:
    said_at = one.row.last_post_at if one.row is not None else None
    return said_at is None or said_at.replace(minute=0, second=0, microsecond=0) != now.replace(
        minute=0, second=0, microsecond=0
    )


def _tell_listeners(samples: list[Sample], *, now: datetime) -> None:
    try:
        with transaction.atomic():
            for _, answer in signals.samples_stored.send_robust(sender=Sample, samples=samples, now=now):
                if isinstance(answer, Exception):
                    raise ListenerFailed(str(answer)) from answer
    except (ListenerFailed, DatabaseError):
        # Fewer readings mean "active", never "idle"; without the posts every worker would be lost.
        log.exception("a listener to new samples failed; %d posts are stored without it", len(samples))
