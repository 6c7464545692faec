"""Which worker gets a job. Pure: candidates and a need in, a choice or the reasons why not out.

A worker must be online, have a free slot, be safe, and fit. Among those, the tenant's turn goes round: the worker that
was never given to that tenant, or longest ago, comes first; then the least used; then the smallest id, so that the same
question always has the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from core.reasons import Reason, because
from pool.quota import Reading
from pool.states import WorkerState

GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A worker as selection sees it. taken: slots that hold a job. owner_id: who alone may use it; None: everybody.

    gpu_mem_bytes: of its smallest GPU. kind: its account's provider. epoch: for whoever acts on the choice.
    """

    worker_id: str
    name: str
    kind: str
    state: str
    reading: Reading
    epoch: int = 0
    slots: int = 1
    taken: int = 0
    enabled: bool = True
    gpu_mem_bytes: int = 0
    instance_ref: str = ""
    owner_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a job asks for. tenant_id: whose turn it is. Empty or zero: no constraint."""

    tenant_id: int
    gpu_mem_bytes: int = 0
    provider: str = ""
    expected_hours: float | None = None
    instance_ref: str = ""


@dataclass(frozen=True)
class Refusal:
    worker_id: str
    reason: Reason


@dataclass(frozen=True)
class Selection:
    """choice: the worker, or None. refusals: why each of the others could not have been it."""

    choice: Candidate | None
    refusals: tuple[Refusal, ...]


def select(
    candidates: Iterable[Candidate], need: Need, *, chosen_at: Mapping[str, datetime] | None = None
) -> Selection:
    """The worker for `need`. chosen_at: worker id -> when this tenant was last given it."""
    last = chosen_at or {}
    able: list[Candidate] = []
    refusals: list[Refusal] = []
    for candidate in candidates:
        reason = refuse(candidate, need)
        if reason is None:
            able.append(candidate)
        else:
            refusals.append(Refusal(candidate.worker_id, reason))
    choice = min(able, key=lambda candidate: _turn(candidate, last), default=None)
    return Selection(choice, tuple(refusals))


def is_open(candidate: Candidate) -> bool:
    """Whether it could take some job now: online, with a free slot, and safe."""
    nothing = Need(tenant_id=0)
    return all(check(candidate, nothing) is None for check in READY)


def refuse(candidate: Candidate, need: Need) -> Reason | None:
    """The first reason why this worker cannot take the job now; None where it can."""
    return next((reason for check in CHECKS if (reason := check(candidate, need)) is not None), None)


def _turn(candidate: Candidate, last: Mapping[str, datetime]) -> tuple[bool, float, float, str]:
    chosen = last.get(candidate.worker_id)
    stamp = chosen.timestamp() if chosen is not None else 0.0
    return chosen is not None, stamp, candidate.reading.percent, candidate.worker_id


# -- the checks, in the order in which they are made ------------------------------------------------


def _online(candidate: Candidate, need: Need) -> Reason | None:
    if not candidate.enabled:
        return because("account_disabled")
    if candidate.state != WorkerState.ONLINE:
        return because("worker_not_online", state=candidate.state)
    return None


def _free(candidate: Candidate, need: Need) -> Reason | None:
    if candidate.taken >= candidate.slots:
        return because("slots_taken", slots=candidate.slots)
    return None


def _safe(candidate: Candidate, need: Need) -> Reason | None:
    return None if candidate.reading.safe else candidate.reading.why_unsafe()


def _whose(candidate: Candidate, need: Need) -> Reason | None:
    if candidate.instance_ref != need.instance_ref:
        return because("kept_for_instance" if candidate.instance_ref else "not_that_instance")
    if candidate.owner_id is not None and candidate.owner_id != need.tenant_id:
        return because("somebody_elses")
    return None


def _provider(candidate: Candidate, need: Need) -> Reason | None:
    if need.provider and candidate.kind != need.provider:
        return because("wrong_provider", have=candidate.kind, need=need.provider)
    return None


def _memory(candidate: Candidate, need: Need) -> Reason | None:
    if candidate.gpu_mem_bytes < need.gpu_mem_bytes:
        return because(
            "gpu_too_small", have_gib=gib(candidate.gpu_mem_bytes), need_gib=gib(need.gpu_mem_bytes)
        )
    return None


def _long_enough(candidate: Candidate, need: Need) -> Reason | None:
    left_h = candidate.reading.left_h
    if need.expected_hours is not None and left_h is not None and need.expected_hours > left_h:
        return candidate.reading.why_too_short(need.expected_hours)
    return None


Check = Callable[[Candidate, Need], Reason | None]
READY: Sequence[Check] = (_online, _free, _safe)
"""What a worker must be, whatever the job."""
SUITS: Sequence[Check] = (_whose, _provider, _memory)
"""What waiting does not change."""
CHECKS: Sequence[Check] = (*READY, *SUITS, _long_enough)


# -- why a job waits --------------------------------------------------------------------------------


def why_waiting(candidates: Sequence[Candidate], need: Need) -> Reason:
    """One reason for a job that no worker can take now: what is missing among the workers that would suit it."""
    theirs = [candidate for candidate in candidates if _whose(candidate, need) is None]
    if need.instance_ref:
        return _why_instance(theirs, need)
    if not theirs:
        return because("no_workers")
    of_provider = [candidate for candidate in theirs if _provider(candidate, need) is None]
    if not of_provider:
        return because("no_worker_of_provider", need=need.provider)
    suited = [candidate for candidate in of_provider if _memory(candidate, need) is None]
    if not suited:
        most = max(candidate.gpu_mem_bytes for candidate in of_provider)
        return because("no_worker_with_memory", need_gib=gib(need.gpu_mem_bytes), most_gib=gib(most))
    online = [candidate for candidate in suited if _online(candidate, need) is None]
    if not online:
        return because("none_online", workers=len(suited))
    safe = [candidate for candidate in online if candidate.reading.safe]
    if not safe:
        return because("all_near_limit", workers=len(online))
    long_enough = [candidate for candidate in safe if _long_enough(candidate, need) is None]
    if not long_enough:
        return because("none_long_enough", need_h=need.expected_hours)
    return because("all_busy", workers=len(long_enough))


def _why_instance(theirs: Sequence[Candidate], need: Need) -> Reason:
    if not theirs:
        return because("instance_unknown", instance=need.instance_ref)
    worker = theirs[0]
    if worker.state in (WorkerState.OFFLINE, WorkerState.LOST):
        return because("instance_asleep")
    return refuse(worker, need) or because("job_submitted")


def gib(size_bytes: int) -> float:
    """Bytes as GiB to one decimal, the way that people name GPU memory."""
    return round(size_bytes / GIB, 1)
