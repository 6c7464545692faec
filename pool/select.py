"""Which worker gets a job. Pure: candidates and a need in, a choice or the reasons why not out.

A worker must be online, have a free slot, be safe, and fit. Among those, the tenant's turn goes round: the worker that
was never given to that tenant, or longest ago, comes first; then the least used; then the smallest id, so that the same
question always has the same answer.

This is the reference: `pool.services.choosing` asks a database the same question with one statement, and tests hold the
two together (docs/design/selection.md). Why a job waits is worked out from groups of like workers, never worker by worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from core.reasons import Reason, because
from pool.labels import missing
from pool.quota import Reading
from pool.states import WorkerState

GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A worker as selection sees it. taken: slots that hold a job. owner_id: who alone may use it; None: everybody.

    gpu_mem_bytes: of its smallest GPU. kind: its account's provider. labels: as pool.labels.packed writes them. epoch:
    for whoever acts on the choice.
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
    labels: str = ""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a job asks for. tenant_id: whose turn it is. labels: all of them must be there. Empty or zero: no constraint."""

    tenant_id: int
    gpu_mem_bytes: int = 0
    provider: str = ""
    expected_hours: float | None = None
    instance_ref: str = ""
    labels: str = ""


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


def _whose(candidate: Candidate | Group, need: Need) -> Reason | None:
    if candidate.instance_ref != need.instance_ref:
        return because("kept_for_instance" if candidate.instance_ref else "not_that_instance")
    if candidate.owner_id is not None and candidate.owner_id != need.tenant_id:
        return because("somebody_elses")
    return None


def _provider(candidate: Candidate | Group, need: Need) -> Reason | None:
    if need.provider and candidate.kind != need.provider:
        return because("wrong_provider", have=candidate.kind, need=need.provider)
    return None


def _memory(candidate: Candidate | Group, need: Need) -> Reason | None:
    if candidate.gpu_mem_bytes < need.gpu_mem_bytes:
        return because(
            "gpu_too_small", have_gib=gib(candidate.gpu_mem_bytes), need_gib=gib(need.gpu_mem_bytes)
        )
    return None


def _labelled(candidate: Candidate | Group, need: Need) -> Reason | None:
    lacking = missing(candidate.labels, need.labels)
    return because("labels_missing", missing=", ".join(lacking)) if lacking else None


def _long_enough(candidate: Candidate, need: Need) -> Reason | None:
    left_h = candidate.reading.left_h
    if need.expected_hours is not None and left_h is not None and need.expected_hours > left_h:
        return candidate.reading.why_too_short(need.expected_hours)
    return None


Check = Callable[[Candidate, Need], Reason | None]
READY: Sequence[Check] = (_online, _free, _safe)
"""What a worker must be, whatever the job."""
CHECKS: Sequence[Check] = (*READY, _whose, _provider, _memory, _labelled, _long_enough)


# -- why a job waits --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Group:
    """Like workers, counted: of one provider, owner, memory and labels. switched_off: of all workers, those whose account
    is not enabled; online: of the others; safe: of those online.

    most_left_h: of the safe ones, None where one of them never ends. long_enough: hours -> how many of the safe ones have
    so much left, for the hours that were asked about. free_slots: of the safe ones.
    """

    kind: str
    gpu_mem_bytes: int
    labels: str
    instance_ref: str
    owner_id: int | None
    workers: int = 0
    switched_off: int = 0
    online: int = 0
    safe: int = 0
    free_slots: int = 0
    most_left_h: float | None = 0.0
    long_enough: Mapping[float, int] = field(default_factory=dict)

    def suits(self, need: Need) -> bool:
        """Whether waiting could bring a job with that need onto one of them."""
        return all(check(self, need) is None for check in (_whose, _provider, _memory, _labelled))

    def left_for(self, hours: float | None) -> int:
        """How many of the safe ones have so much left."""
        return self.safe if hours is None else self.long_enough[hours]


def groups_of(candidates: Iterable[Candidate], *, hours: Iterable[float] = ()) -> list[Group]:
    """The candidates, counted. hours: what long_enough is to be known for."""
    like: dict[tuple[str, int, str, str, int | None], list[Candidate]] = {}
    for one in candidates:
        key = (one.kind, one.gpu_mem_bytes, one.labels, one.instance_ref, one.owner_id)
        like.setdefault(key, []).append(one)
    return [_group(members, tuple(hours)) for members in like.values()]


def _group(members: Sequence[Candidate], hours: tuple[float, ...]) -> Group:
    first = members[0]
    online = [one for one in members if one.enabled and one.state == WorkerState.ONLINE]
    safe = [one for one in online if one.reading.safe]
    left = [one.reading.left_h for one in safe]
    return Group(
        kind=first.kind,
        gpu_mem_bytes=first.gpu_mem_bytes,
        labels=first.labels,
        instance_ref=first.instance_ref,
        owner_id=first.owner_id,
        workers=len(members),
        switched_off=sum(not one.enabled for one in members),
        online=len(online),
        safe=len(safe),
        free_slots=sum(max(0, one.slots - one.taken) for one in safe),
        most_left_h=None if None in left else max((h for h in left if h is not None), default=0.0),
        long_enough={need_h: sum(h is None or h >= need_h for h in left) for need_h in hours},
    )


def why_waiting(groups: Sequence[Group], need: Need) -> Reason:
    """One reason for a job that no worker of the shared pool can take now: what is missing among those that would suit.

    The groups know need.expected_hours. For a job that names an instance, ask `why_instance`.
    """
    theirs = [group for group in groups if _whose(group, need) is None]
    if not theirs:
        return because("no_workers")
    of_provider = [group for group in theirs if _provider(group, need) is None]
    if not of_provider:
        return because("no_worker_of_provider", need=need.provider)
    large = [group for group in of_provider if _memory(group, need) is None]
    if not large:
        most = max(group.gpu_mem_bytes for group in of_provider)
        return because("no_worker_with_memory", need_gib=gib(need.gpu_mem_bytes), most_gib=gib(most))
    suited = [group for group in large if _labelled(group, need) is None]
    if not suited:
        return because("no_worker_with_labels", labels=", ".join(missing("", need.labels)))
    online = sum(group.online for group in suited)
    if not online:
        workers = sum(group.workers for group in suited)
        usable = workers - sum(group.switched_off for group in suited)
        return (
            because("none_online", workers=usable) if usable else because("all_switched_off", workers=workers)
        )
    if not any(group.safe for group in suited):
        return because("all_near_limit", workers=online)
    long_enough = sum(group.left_for(need.expected_hours) for group in suited)
    if not long_enough:
        most_h = max(group.most_left_h or 0.0 for group in suited)
        return because("none_long_enough", need_h=need.expected_hours, most_h=round(most_h, 2))
    return because("all_busy", workers=long_enough)


def why_instance(worker: Candidate | None, need: Need) -> Reason:
    """One reason for a job whose instance cannot take it now. worker: the instance's, None where there is none."""
    if worker is None or _whose(worker, need) is not None:
        return because("instance_unknown", instance=need.instance_ref)
    if worker.state in (WorkerState.OFFLINE, WorkerState.LOST):
        return because("instance_asleep")
    return refuse(worker, need) or because("job_submitted")


def gib(size_bytes: int) -> float:
    """Bytes as GiB to one decimal, the way that people name GPU memory."""
    return round(size_bytes / GIB, 1)
