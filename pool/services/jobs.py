"""Which job runs where: queued jobs meet workers (docs/design/selection.md)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import count

from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.utils import timezone

from core.errors import TransitionRefused
from core.reasons import because
from core.transitions import advance
from pool.models import Choice, Dispatch, Job, Worker
from pool.select import Group, Need
from pool.services import choosing
from pool.services.bell import dispatcher_ring
from pool.services.choosing import Chosen
from pool.services.deferred import deferred_release
from pool.services.dispatches import dispatch_create
from pool.services.queue import queue_read
from pool.services.standings import slots_release, standings_renew
from pool.services.waiting import reasons_write
from pool.states import OPEN, JobState, WorkerState
from pool.turns import Line

log = logging.getLogger(__name__)

GIVEN_AT_ONCE = 1_000
"""Jobs that one run gives at most: it rings for the next, which sees what has changed meanwhile."""


def jobs_dispatch(*, now: datetime | None = None, at_most: int = GIVEN_AT_ONCE) -> int:
    """Give queued jobs to workers, in their turns (pool.turns); returns how many were given.

    Two at once are safe: a slot is taken under its worker's row lock and held by a unique index, a job by its guarded
    change of state. A line whose jobs no worker can take now is passed over and told the reason.
    """
    now = now or timezone.now()
    deferred_release(now=now)
    slots_release()
    standings_renew(now=now)
    lines, turns = queue_read()
    waiting = {line.key: line for line in lines}
    unplaced: list[Line] = []
    placed: set[str] = set()
    desk = Desk(now=now)
    given = 0
    while given < at_most and (line := turns.next()) is not None:
        if desk.nobody_for(line.need):
            unplaced.append(line)
            turns.over(line)
            continue
        job = desk.job(line)
        if job is None:
            del waiting[line.key]
            turns.over(line)
            continue
        chosen = desk.worker(line)
        if chosen is None:
            continue
        at = desk.turn_at()
        try:
            dispatch = job_take(job, chosen, now=at)
        except TransitionRefused as refused:
            log.info("job=%s is not to be given any more: %s", job.pk, refused)
            desk.somebody_else_is_at(line)
            continue
        if dispatch is None:
            desk.shut(chosen)
            continue
        given += 1
        placed.add(line.key)
        next_at = desk.given(line, chosen)
        turns.given(line, at=at, next_at=next_at)
        if next_at is None:
            del waiting[line.key]
    if given >= at_most:
        dispatcher_ring()
    reasons_write(unplaced, waiting=waiting, changed=placed, now=now)
    return given


def job_take(job: Job, chosen: Chosen, *, now: datetime) -> Dispatch | None:
    """Give `job` a slot of that worker and ring its bell after the commit. None where it cannot take it (any more).

    Raises TransitionRefused where the job is not queued any more, and writes nothing then.
    """
    try:
        with transaction.atomic():
            # The worker's row is the lock: whoever else wants one of its slots, or drains it, waits for this commit.
            ready = Worker.objects.select_for_update().filter(
                Q(safe_until=None) | Q(safe_until__gt=now),
                pk=chosen.worker_id,
                epoch=chosen.epoch,
                state=WorkerState.ONLINE,
                taken__lt=F("slots"),
            )
            worker = ready.only("epoch", "name", "slots").first()
            slot = _free_slot(worker) if worker is not None else None
            if worker is None or slot is None:
                return None
            reason = because("job_chosen", worker=worker.name, percent=chosen.percent)
            number = job.attempt + 1
            advance(job, JobState.DISPATCHED, reason=reason, now=now, fence=number)
            dispatch = dispatch_create(
                worker=worker,
                kind=Dispatch.Kind.JOB,
                reason=reason,
                now=now,
                job=job,
                number=number,
                slot=slot,
                counted=True,
            )
            Worker.objects.filter(pk=worker.pk).update(taken=F("taken") + 1)
            Choice.objects.bulk_create(
                [Choice(tenant_id=job.owner_id, worker=worker, chosen_at=now)],
                update_conflicts=True,
                unique_fields=["tenant", "worker"],
                update_fields=["chosen_at"],
            )
    except IntegrityError as error:
        # The schema's word is the last: this slot, or this attempt, is somebody's already.
        log.warning("job=%s worker=%s not given: %s", job.pk, chosen.worker_id, error)
        return None
    log.info(
        "select tenant=%s job=%s attempt=%d -> %s worker=%s (%.1f%%)",
        job.owner_id,
        job.pk,
        number,
        chosen.kind,
        chosen.name,
        chosen.percent,
        extra={
            "fields": {
                "select": {
                    "tenant": job.owner_id,
                    "job": job.pk,
                    "attempt": number,
                    "provider": chosen.kind,
                    "worker": chosen.name,
                    "percent": round(chosen.percent, 2),
                }
            }
        },
    )
    return dispatch


def _free_slot(worker: Worker) -> int | None:
    held = set(
        Dispatch.objects.filter(worker=worker, slot__isnull=False, state__in=OPEN).values_list(
            "slot", flat=True
        )
    )
    return next((slot for slot in range(worker.slots) if slot not in held), None)


class Desk:
    """What one run of the dispatcher has in hand: workers in the order of each tenant's turn, and the next jobs.

    Workers are asked for a handful at a time. That is the order in which asking for one after the other would give them:
    the one that was given moves to the end of its tenant's turn, and those before it have not moved.
    """

    def __init__(self, *, now: datetime) -> None:
        self._now = now
        self._turns = count(1)
        self._workers: dict[int, dict[Need, deque[Chosen]]] = {}
        self._jobs: dict[str, deque[Job]] = {}
        self._hand: dict[str, int] = {}
        self._free: dict[str, int] = {}
        self._nobody: set[Need] = set()
        self._kinds: list[Group] | None = None
        self._open = choosing.workers_open()

    def turn_at(self) -> datetime:
        """A moment of its own for each choice of this run: the round robin turns on which was longest ago."""
        return self._now + timedelta(microseconds=next(self._turns))

    def nobody_for(self, need: Need) -> bool:
        """Whether it is known already that no worker takes that need in this run."""
        if not self._open or need in self._nobody:
            return True
        if self._kinds is None or need.instance_ref:
            return False
        return not any(kind.suits(need) for kind in self._kinds)

    def worker(self, line: Line) -> Chosen | None:
        """The next worker for that line; None where nobody takes its need in this run (any more)."""
        need = line.need
        hand = self._workers.setdefault(need.tenant_id, {}).setdefault(need, deque())
        while hand and not self._free[hand[0].worker_id]:
            hand.popleft()
        if not hand:
            hand.extend(self._ask(need, len(self._jobs[line.key])))
        if hand:
            return hand[0]
        self._nobody.add(need)
        if self._kinds is None or self._open <= choosing.FEW:
            # What kinds of workers are open tells of the other lines, without asking for each.
            self._kinds = choosing.kinds_open(now=self._now)
        return None

    def job(self, line: Line) -> Job | None:
        """The oldest job of that line; None where another dispatcher has given them all, or they were cancelled."""
        hand = self._jobs.setdefault(line.key, deque())
        if not hand:
            queued = Job.objects.filter(state=JobState.QUEUED, need_key=line.key).order_by("queued_at", "pk")
            how_many = self._hand[line.key] = min(2 * self._hand.get(line.key, 1), choosing.AT_ONCE)
            hand.extend(queued.defer("command", "script", "env", "artifacts")[:how_many])
        return hand[0] if hand else None

    def given(self, line: Line, chosen: Chosen) -> datetime | None:
        """The line's oldest job went to that worker. Returns since when its next one has waited; None: it was the last."""
        self._free[chosen.worker_id] -= 1
        for hand in self._workers[line.need.tenant_id].values():
            # It is at the end of this tenant's turn now, whatever the need; asked again, it will be found there.
            for one in [one for one in hand if one.worker_id == chosen.worker_id]:
                hand.remove(one)
        last = self._jobs[line.key].popleft()
        following = self.job(line)
        return max(following.queued_at, last.queued_at) if following is not None else None

    def somebody_else_is_at(self, line: Line) -> None:
        """Another dispatcher gives the same jobs: look again which are left."""
        self._jobs.pop(line.key, None)

    def shut(self, chosen: Chosen) -> None:
        """It turned out to have no slot left."""
        self._free[chosen.worker_id] = 0

    def _ask(self, need: Need, how_many: int) -> Iterator[Chosen]:
        few = self._open <= choosing.FEW
        for one in choosing.workers_in_turn(need, now=self._now, limit=how_many, few=few):
            if self._free.get(one.worker_id) != 0:
                self._free[one.worker_id] = one.slots - one.taken
                yield one
