"""What the API and the console show of instances: beside each row its price, its box, how far its chain is, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db.models import F, QuerySet
from django.utils.translation import gettext

from core.chain_states import ChainState
from core.chains import definition_of
from core.models import Chain, Event
from core.reasons import Reason, words
from hibernation.models import Box, Instance, Schedule
from hibernation.policy import Resolved, to_json
from hibernation.reasons import because
from hibernation.services.policies import policies_resolved, policy_resolved
from hibernation.services.verdicts import verdict_now
from hibernation.states import AWAKE, BILLED, LIVE, InstanceState
from pool.models import Dispatch
from pool.states import DispatchState

MOVES_BYTES = {"snapshot": Dispatch.Kind.SNAPSHOT, "restore": Dispatch.Kind.RESTORE}
"""Steps of chains in which an agent moves bytes, and the kind of dispatch that says how many."""


@dataclass(frozen=True)
class Progress:
    """How far an active chain is. percent: of the whole chain, by steps; a step that moves bytes counts by its bytes.

    phase: the agent's own word for what it does, else the step. bytes are logical. left_s: of this step, None: unknown.
    """

    chain: str
    kind: str
    step: str
    steps: tuple[str, ...]
    reason: str
    since: datetime
    phase: str
    percent: float
    bytes_done: int = 0
    bytes_total: int = 0
    files_done: int = 0
    files_total: int = 0
    bytes_per_s: float | None = None
    left_s: float | None = None


@dataclass(frozen=True)
class Shown:
    """What is shown beside an instance's own columns. boxes: everything that is billed for it now; box: the one of them
    that it lives on. price_usd_per_h: of all of them."""

    resolved: Resolved
    price_usd_per_h: Decimal = Decimal(0)
    box: Box | None = None
    boxes: Sequence[Box] = ()
    progress: Progress | None = None
    schedule: Schedule | None = None
    policy: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", to_json(self.resolved.policy)["auto_hibernation"])


def instances() -> QuerySet[Instance]:
    """Instances with what every page shows of them."""
    return Instance.objects.select_related("owner", "account", "worker", "snapshot", "schedule")


def shown(rows: Sequence[Instance]) -> list[Instance]:
    """The same rows, each with `shown`, a Shown, in a handful of queries for all of them."""
    ids = [instance.pk for instance in rows]
    policies = policies_resolved(rows)
    billed: dict[str, list[Box]] = {pk: [] for pk in ids}
    for box in Box.objects.filter(instance__in=ids, state__in=BILLED).order_by("epoch"):
        billed[box.instance_id].append(box)
    progress = dict(_progress(rows))
    for instance in rows:
        instance.shown = Shown(
            resolved=policies[instance.pk],
            price_usd_per_h=sum((box.price_usd_per_h for box in billed[instance.pk]), Decimal(0)),
            box=next((box for box in billed[instance.pk] if box.state in LIVE), None),
            boxes=billed[instance.pk],
            progress=progress.get(instance.pk),
            schedule=getattr(instance, "schedule", None),
        )
    return list(rows)


def progress_of(instance: Instance) -> Progress | None:
    """How far the instance's chain is; None where none is active."""
    return dict(_progress([instance])).get(instance.pk)


def _progress(rows: Sequence[Instance]) -> Iterator[tuple[str, Progress]]:
    chains = list(
        Chain.objects.filter(
            state=ChainState.ACTIVE, subject_type=Instance.SUBJECT, subject_id__in=[row.pk for row in rows]
        )
    )
    moving = {chain.subject_id for chain in chains if chain.step in MOVES_BYTES}
    workers = {row.worker_id: row.pk for row in rows if row.pk in moving and row.worker_id}
    transfers: dict[tuple[str, str], Dispatch] = {}
    for dispatch in Dispatch.objects.filter(
        worker__in=list(workers), state=DispatchState.CLAIMED, epoch=F("worker__epoch")
    ):
        transfers[workers[dispatch.worker_id], dispatch.kind] = dispatch
    for chain in chains:
        transfer = transfers.get((chain.subject_id, MOVES_BYTES.get(chain.step, "")))
        yield chain.subject_id, _progress_of(chain, transfer)


def _progress_of(chain: Chain, transfer: Dispatch | None) -> Progress:
    steps = definition_of(chain.kind).names
    facts = dict(transfer.progress) if transfer else {}
    done, total = int(facts.get("bytes_done") or 0), int(facts.get("bytes_total") or 0)
    rate, left_s = _pace(transfer, done, total)
    share = done / total if total else 0.0
    return Progress(
        chain=chain.pk,
        kind=chain.kind,
        step=chain.step,
        steps=steps,
        reason=chain.reason,
        since=chain.created_at,
        phase=str(facts.get("phase") or chain.step),
        percent=round(100 * (steps.index(chain.step) + share) / len(steps), 1),
        bytes_done=done,
        bytes_total=total,
        files_done=int(facts.get("files_done") or 0),
        files_total=int(facts.get("files_total") or 0),
        bytes_per_s=rate,
        left_s=left_s,
    )


def _pace(transfer: Dispatch | None, done: int, total: int) -> tuple[float | None, float | None]:
    if transfer is None or transfer.claimed_at is None or transfer.progress_at is None or not done:
        return None, None
    taken_s = (transfer.progress_at - transfer.claimed_at).total_seconds()
    if taken_s <= 0:
        return None, None
    rate = done / taken_s
    return round(rate), round(max(0, total - done) / rate, 1)


# -- why ------------------------------------------------------------------------------------------------------------------


def why(instance: Instance, *, now: datetime) -> dict[str, Any]:
    """Why it is awake or asleep, what happens next and when, and what the verdict of this moment rests on.

    {status, why, code, next: [{what, at, text}], slept, woke: {at, by, reason} | None, verdict: {...} | None}
    """
    verdict = _verdict(instance, now) if instance.state in AWAKE else None
    return {
        "status": instance.state,
        "why": verdict["reason"] if verdict else instance.reason,
        "code": verdict["code"] if verdict else instance.reason_code,
        "next": sorted(_next(instance, now), key=lambda item: item["at"]),
        "slept": _last(instance, InstanceState.HIBERNATING),
        "woke": _last(instance, InstanceState.WAKING),
        "progress": progress_of(instance),
        "verdict": verdict,
    }


def _verdict(instance: Instance, now: datetime) -> dict[str, Any]:
    policy = policy_resolved(instance).policy
    found, facts, readings = verdict_now(instance, now=now, policy=policy)
    return {
        "at": now,
        "idle": found.idle,
        "code": found.reason.code,
        "reason": _worded(found.reason),
        "since": found.since,
        "due_at": found.due_at,
        "policy": to_json(policy)["auto_hibernation"],
        "work": list(facts.work),
        "samples": [reading.to_json() for reading in readings],
    }


def _next(instance: Instance, now: datetime) -> Iterator[dict[str, Any]]:
    schedule = Schedule.objects.filter(instance=instance).first()
    awake, asleep = (
        instance.state in AWAKE,
        instance.state in (InstanceState.HIBERNATED, InstanceState.DELETED),
    )
    candidates = (
        ("hibernate", instance.idle_due_at if instance.state == InstanceState.IDLE else None),
        ("delete", instance.delete_due_at if instance.state == InstanceState.HIBERNATED else None),
        ("sleep", schedule.next_sleep_at if schedule and awake else None),
        ("wake", schedule.next_wake_at if schedule and asleep else None),
    )
    for what, at in candidates:
        if at is not None:
            reason = because(f"next_{what}", at=f"{at:%Y-%m-%d %H:%M:%S} UTC")
            yield {"what": what, "at": at, "text": _worded(reason)}


def _last(instance: Instance, state: str) -> dict[str, Any] | None:
    event = Event.objects.filter(
        subject_type=Instance.SUBJECT, subject_id=instance.pk, to_state=state
    ).first()
    return {"at": event.at, "by": event.by, "reason": event.reason} if event else None


def _worded(reason: Reason) -> str:
    return words(reason.code, reason.params, translate=gettext)
