"""Which job runs where: queued jobs meet workers."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Min, Q
from django.utils import timezone

from core.errors import TransitionRefused
from core.reasons import Reason, because
from core.transitions import advance
from pool.models import Choice, Dispatch, Job, Worker
from pool.select import Candidate, Need, is_open, select, why_waiting
from pool.selectors import holding_slots, slots_taken
from pool.services.dispatches import dispatch_create
from pool.states import JobState, WorkerState
from pool.usage import readings, workers_lean

log = logging.getLogger(__name__)


def jobs_dispatch(*, now: datetime | None = None) -> int:
    """Give queued jobs to workers, the highest priority first, then the oldest; returns how many were given.

    Two at once are safe: a slot is taken under its worker's row lock and held by a unique index, a job by its guarded
    change of state. A job that no worker can take now is passed over and carries the reason.
    """
    now = now or timezone.now()
    serial = count()
    # One entry for all queued jobs of a priority that need the same: its oldest job's turn comes next.
    turns = [(-priority, first_at, next(serial), need) for priority, first_at, need in _groups()]
    if not turns:
        return 0
    heapify(turns)
    board = Board({need for *_, need in turns}, now=now)
    waiting: dict[Need, Reason] = {}
    given = 0
    while turns:
        order, first_at, _, need = heappop(turns)
        if need in waiting:
            continue
        candidate = board.choose(need)
        if candidate is None:
            waiting[need] = board.why(need)
            continue
        jobs = list(_queued(need).filter(priority=-order).order_by("queued_at", "pk")[:2])
        if not jobs:
            continue
        following_at = jobs[1].queued_at if len(jobs) > 1 else None
        try:
            if job_take(jobs[0], candidate, now=board.turn_at()) is not None:
                board.give(candidate, need)
                given += 1
            else:
                board.close(candidate)
                following_at = first_at
        except TransitionRefused as refused:
            log.info("job=%s is not to be given any more: %s", jobs[0].pk, refused)
        if following_at is not None:
            heappush(turns, (order, following_at, next(serial), need))
    for need, reason in waiting.items():
        _say_why(need, reason)
    return given


def job_take(job: Job, candidate: Candidate, *, now: datetime) -> Dispatch | None:
    """Give `job` a slot of that worker and ring its bell after the commit. None where no slot is free (any more).

    Raises TransitionRefused where the job is not queued any more, and writes nothing then.
    """
    try:
        with transaction.atomic():
            # The worker's row is the lock: whoever else wants one of its slots, or drains it, waits for this commit.
            ready = Worker.objects.select_for_update().filter(
                pk=candidate.worker_id, epoch=candidate.epoch, state=WorkerState.ONLINE
            )
            worker = ready.first()
            slot = _free_slot(worker) if worker is not None else None
            if worker is None or slot is None:
                return None
            reason = because("job_chosen", worker=worker.name, percent=candidate.reading.percent)
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
            )
            Choice.objects.update_or_create(
                tenant_id=job.owner_id, worker=worker, defaults={"chosen_at": now}
            )
    except IntegrityError as error:
        # The schema's word is the last: this slot, or this attempt, is somebody's already.
        log.warning("job=%s worker=%s not given: %s", job.pk, candidate.worker_id, error)
        return None
    log.info(
        "select tenant=%s job=%s attempt=%d -> %s worker=%s %s",
        job.owner_id,
        job.pk,
        number,
        candidate.kind,
        candidate.name,
        candidate.reading.figures(),
    )
    return dispatch


class Board:
    """The workers during one run of the dispatcher, each as it is after what was given so far."""

    def __init__(self, needs: set[Need], *, now: datetime) -> None:
        self._now = now
        self._turns = count(1)
        self._known: dict[str, list[Candidate]] = {}
        self._open: dict[str, dict[str, Candidate]] = {}
        self._chosen: dict[int, dict[str, datetime]] = {}
        for candidate in candidates(instances={need.instance_ref for need in needs} - {""}, now=now):
            self._known.setdefault(candidate.instance_ref, []).append(candidate)
            if is_open(candidate):
                self._open.setdefault(candidate.instance_ref, {})[candidate.worker_id] = candidate

    def choose(self, need: Need) -> Candidate | None:
        able = self._open.get(need.instance_ref)
        if not able:
            return None
        return select(able.values(), need, chosen_at=self._chosen_at(need.tenant_id)).choice

    def why(self, need: Need) -> Reason:
        return why_waiting(self._known.get(need.instance_ref, []), need)

    def turn_at(self) -> datetime:
        """A moment of its own for each choice of this run: the round robin turns on which was longest ago."""
        return self._now + timedelta(microseconds=next(self._turns))

    def give(self, candidate: Candidate, need: Need) -> None:
        """It was given a job of `need`."""
        self._chosen_at(need.tenant_id)[candidate.worker_id] = self.turn_at()
        self._put(replace(candidate, taken=candidate.taken + 1))

    def close(self, candidate: Candidate) -> None:
        """It turned out to have no slot left."""
        self._put(replace(candidate, taken=candidate.slots))

    def _put(self, candidate: Candidate) -> None:
        known = self._known[candidate.instance_ref]
        known[[one.worker_id for one in known].index(candidate.worker_id)] = candidate
        able = self._open[candidate.instance_ref]
        if is_open(candidate):
            able[candidate.worker_id] = candidate
        else:
            able.pop(candidate.worker_id, None)

    def _chosen_at(self, tenant_id: int) -> dict[str, datetime]:
        if tenant_id not in self._chosen:
            rows = Choice.objects.filter(tenant=tenant_id).values_list("worker_id", "chosen_at")
            self._chosen[tenant_id] = dict(rows)
        return self._chosen[tenant_id]


def candidates(*, instances: set[str], now: datetime) -> list[Candidate]:
    """Every worker of the shared pool, and those of these instances, as selection sees them."""
    rows = workers_lean(
        Worker.objects.filter(Q(instance_ref="") | Q(instance_ref__in=instances)).exclude(
            state=WorkerState.REVOKED
        )
    )
    of = readings(rows, now=now)
    taken = slots_taken()
    return [
        Candidate(
            worker_id=worker.pk,
            name=worker.name,
            kind=worker.account.kind,
            state=worker.state,
            reading=of[worker.pk],
            epoch=worker.epoch,
            slots=worker.slots,
            taken=taken.get(worker.pk, 0),
            enabled=worker.account.enabled,
            gpu_mem_bytes=worker.gpu_mem_bytes,
            instance_ref=worker.instance_ref,
            owner_id=worker.owner_id,
        )
        for worker in rows
    ]


def _free_slot(worker: Worker) -> int | None:
    held, ghosts = holding_slots(Dispatch.objects.filter(worker=worker))
    taken = set(held.values_list("slot", flat=True))
    if len(taken) + ghosts.count() >= worker.slots:
        return None
    return next((slot for slot in range(worker.slots) if slot not in taken), None)


def _groups() -> list[tuple[int, datetime, Need]]:
    rows = (
        Job.objects.filter(state=JobState.QUEUED)
        .order_by()
        .values("priority", *NEED_COLUMNS)
        .annotate(first_at=Min("queued_at"))
    )
    return [(row["priority"], row["first_at"], _need(row)) for row in rows]


NEED_COLUMNS = ("owner_id", "gpu_mem_bytes", "provider", "expected_hours", "instance_ref")


def _need(row: dict[str, Any]) -> Need:
    return Need(
        tenant_id=row["owner_id"],
        gpu_mem_bytes=row["gpu_mem_bytes"],
        provider=row["provider"],
        expected_hours=row["expected_hours"],
        instance_ref=row["instance_ref"],
    )


def _queued(need: Need) -> Any:
    """The queued jobs that need exactly this."""
    return Job.objects.filter(
        state=JobState.QUEUED,
        owner_id=need.tenant_id,
        gpu_mem_bytes=need.gpu_mem_bytes,
        provider=need.provider,
        expected_hours=need.expected_hours,
        instance_ref=need.instance_ref,
    )


def _say_why(need: Need, reason: Reason) -> None:
    """Every job that waits for the same carries the reason; rows that say so already are not written."""
    columns = Job.reason_columns(reason)
    if _queued(need).exclude(**columns).update(**columns):
        log.info("select tenant=%s waits: %s", need.tenant_id, reason)
