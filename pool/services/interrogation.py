"""Asking a worker how it is: by its health URL where it gave one that the operator allows, else by its doorbell.

An answer is for people. It says what the machine says of itself at that moment, over a way that proves little, so that
nothing is decided on its strength: a worker is online because it posts its status, with its token.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from agent import wire
from core.doorbell import ring
from core.errors import DomainError, TooSoon
from core.http import HttpError
from core.http_guarded import GuardedHttp
from core.places import NotAllowed, Reach
from core.reasons import Reason, because
from core.ticks import step_each
from pool.growth import overdue_s
from pool.health_answer import BadAnswer, answer_of, answer_read
from pool.models import Interrogation, Worker
from pool.services.publish import orders_publish
from pool.states import LISTENING, WorkerState

log = logging.getLogger(__name__)

TASK = "pool.interrogation.ask"

ASK_AGAIN = timedelta(minutes=1)
"""A worker that is late is asked by the beat this often at most, and by people every few seconds."""

LOST_ASKED = timedelta(minutes=10)
"""A worker that has just been lost is still asked: one that posts every few seconds is lost before anybody could."""

PEOPLE_AGAIN = timedelta(seconds=5)

OPEN = timedelta(seconds=45)
"""How long a question stands. An agent that is there answers a doorbell within a second or two."""

AT_ONCE = 100
"""Workers that one run of the beat asks: the next run is seconds away."""

URLS_AT_ONCE = 32
THREADS = 16
URL_S = 4.0
"""One run asks so many URLs, so many of them at the same time, each for this long: eight seconds at the worst."""

HEALTH_PATH = "/health"

ANSWER_LIMIT_BYTES = 16 * 1024

ASKABLE = (*LISTENING, WorkerState.LOST)
"""States of a worker whose session may be running."""


class NothingToAsk(DomainError):
    """The worker has no session that could answer."""

    code = "no_session"


def worker_interrogate(worker: Worker, *, by: str = "", now: datetime) -> Interrogation:
    """Ask it now; the answer comes later, onto the row that is returned.

    by: the person who asks; empty: the system. Raises NothingToAsk, or TooSoon where it was asked a moment ago.
    """
    if worker.state not in ASKABLE:
        raise NothingToAsk(
            f"worker {worker.name} is {worker.state}", hint="ask it when it has a session again"
        )
    by_url = may_be_asked(worker.health_url) is None if worker.health_url else False
    way = Interrogation.Way.URL if by_url else Interrogation.Way.DOORBELL
    asked = {
        "epoch": worker.epoch,
        "way": way,
        "asked_at": now,
        "asked_by": by,
        "open_until": now + OPEN,
        "asking_at": None,
        **Interrogation.reason_columns(because("question_open", way=str(way))),
    }
    with transaction.atomic():
        row, made = Interrogation.objects.select_for_update().get_or_create(worker=worker, defaults=asked)
        if not made:
            again = row.asked_at + PEOPLE_AGAIN
            if again > now:
                wait_s = (again - now).total_seconds()
                raise TooSoon(f"worker {worker.name} was asked a moment ago", retry_after_s=wait_s)
            Interrogation.objects.filter(pk=row.pk).update(**asked)
            row.refresh_from_db()
        if by_url:
            ring(TASK)
        orders_publish([worker.pk])
    log.info("worker=%s asked by %s", worker.pk, way)
    return row


def may_be_asked(url: str) -> str | None:
    """Why a health URL is not asked; None where it may be."""
    try:
        target = _reach().target(url)
    except NotAllowed as refused:
        return str(refused)
    # An agent chooses the URL: it may name a place that is allowed, not what is asked there.
    if target.path != HEALTH_PATH or any(mark in url for mark in "?#"):
        return f"the path of a health URL is {HEALTH_PATH} and nothing else"
    return None


def _reach() -> Reach:
    return Reach(places=settings.HEALTH_PLACES, private=settings.PRIVATE_NETWORKS)


# -- the beat's check -----------------------------------------------------------------------------------------------


def interrogations_tick(*, now: datetime) -> int:
    """Close questions that nobody answered, and ask who is late; returns how many of both.

    Two at once are safe: a worker that was just asked is not asked again.
    """
    closed = _close(now)
    asked = step_each(lambda worker: _ask(worker, now=now), late(now=now))
    return closed + asked


def late(*, now: datetime) -> list[Worker]:
    """Workers whose posts are overdue and that were not asked within ASK_AGAIN, those that were never asked first."""
    rows = Worker.objects.filter(
        Q(state=WorkerState.SUSPECT, due_at__isnull=False)
        | Q(state=WorkerState.LOST, state_since__gt=now - LOST_ASKED)
        | _draining_late(now)
    )
    rows = rows.exclude(interrogation__asked_at__gt=now - ASK_AGAIN)
    return list(rows.order_by(F("interrogation__asked_at").asc(nulls_first=True), "pk")[:AT_ONCE])


def _draining_late(now: datetime) -> Q:
    """A draining worker keeps that state while its posts are missing: one term for each interval in use."""
    draining = Worker.objects.filter(state=WorkerState.DRAINING, due_at__isnull=False).order_by()
    found = Q(pk__in=[])
    for interval_s in draining.values_list("check_interval_s", flat=True).distinct():
        before = now - timedelta(seconds=overdue_s(interval_s, missing=1))
        silent = Q(last_seen_at__lt=before) | Q(last_seen_at=None, state_since__lt=before)
        found |= Q(state=WorkerState.DRAINING, due_at__isnull=False, check_interval_s=interval_s) & silent
    return found


def _ask(worker: Worker, *, now: datetime) -> None:
    try:
        worker_interrogate(worker, now=now)
    except (TooSoon, NothingToAsk) as refused:
        log.info("worker=%s not asked: %s", worker.pk, refused.message)


def _close(now: datetime) -> int:
    over = Interrogation.objects.filter(open_until__lte=now)
    ids = list(over.values_list("pk", flat=True)[:AT_ONCE])
    if not ids:
        return 0
    with transaction.atomic():
        closed = over.filter(pk__in=ids).update(
            open_until=None, **Interrogation.reason_columns(because("question_unanswered"))
        )
        orders_publish(ids)
    return closed


# -- answers over HTTP ----------------------------------------------------------------------------------------------


def urls_ask(
    *, now: datetime, http: GuardedHttp | None = None, clock: Callable[[], datetime] = timezone.now
) -> int:
    """Ask the URLs of open questions, several at a time, and store what they answer; returns how many were asked.

    Two at once are safe: each question is taken by one of them. One that dies leaves its questions to be closed.
    """
    waiting = Interrogation.objects.filter(
        way=Interrogation.Way.URL, asking_at__isnull=True, open_until__gt=now
    ).order_by("asked_at")
    mine = []
    for row in waiting.select_related("worker")[:URLS_AT_ONCE]:
        same = Interrogation.objects.filter(pk=row.pk, asked_at=row.asked_at, asking_at__isnull=True)
        if same.update(asking_at=now):
            mine.append(row)
    if not mine:
        return 0
    http = http or GuardedHttp(reach=_reach(), total_s=URL_S, body_limit_bytes=ANSWER_LIMIT_BYTES)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="health") as threads:
        # The threads ask and nothing else: none of them touches the database.
        answers = list(threads.map(lambda row: _asked(http, row.worker.health_url), mine))
    for row, answer in zip(mine, answers, strict=True):
        if isinstance(answer, Reason):
            _store(row, reason=answer)
        else:
            _store(row, reason=because("question_answered"), answer=answer, answered_at=clock())
    return len(mine)


def _asked(http: GuardedHttp, url: str) -> dict[str, Any] | Reason:
    refusal = may_be_asked(url)
    if refusal is not None:
        return because("health_failed", error=refusal)
    try:
        answer = http.call("GET", url, headers={"Accept": "application/json", "User-Agent": "dormouse"})
        if answer.status != 200:
            return because("health_failed", error=f"it answered {answer.status}")
        return answer_read(answer.json())
    except (HttpError, BadAnswer) as error:
        return because("health_failed", error=str(error)[:300])


def _store(row: Interrogation, *, reason: Reason, **columns: Any) -> None:
    """Onto the question that was asked: a later one has an answer of its own to wait for."""
    Interrogation.objects.filter(pk=row.pk, asked_at=row.asked_at, open_until__isnull=False).update(
        open_until=None, **columns, **Interrogation.reason_columns(reason)
    )


# -- answers by post ------------------------------------------------------------------------------------------------


def posts_answer(posts: Iterable[tuple[Worker, wire.StatusPost, datetime]]) -> int:
    """Status posts that have just been stored answer the questions that were asked before them; returns how many.

    In the transaction that stores them. One query where nobody is asked.
    """
    open_rows = Interrogation.objects.filter(open_until__isnull=False, way=Interrogation.Way.DOORBELL)
    questions = {row.worker_id: row for row in open_rows}
    if not questions:
        return 0
    answered: list[str] = []
    for worker, post, at in posts:
        row = questions.get(worker.pk)
        if row is None or row.epoch != worker.epoch or at < row.asked_at:
            continue
        answer = answer_of(post, provider=worker.account.kind)
        _store(row, reason=because("question_answered"), answer=answer, answered_at=at)
        answered.append(worker.pk)
    orders_publish(answered)
    return len(answered)
