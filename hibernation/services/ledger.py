"""The ledger, filled from the rows: boxes, snapshots and events of instances."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.db.models import Q

from core.models import Event
from hibernation.models import Box, Instance
from hibernation.savings import History, Ledger, Rental, Span, Stored, ledger
from hibernation.states import InstanceState
from snapshots.models import Snapshot
from snapshots.states import SnapshotState

KEPT = "paused_long_enough"
"""The reason of a deletion that its owner did not ask for: it can be woken, and goes on saving."""


@dataclass(frozen=True)
class Paid:
    """What sleeping cost in time, in a period. waiting_s: from the request to wake until it ran, or until it failed."""

    wakes: int = 0
    failed_wakes: int = 0
    hibernations: int = 0
    stopped_hibernations: int = 0
    waiting_s: float = 0.0

    def __add__(self, other: Paid) -> Paid:
        return Paid(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Figures:
    """An instance's figures for a period: money, and what was paid in time."""

    money: Ledger
    time: Paid


_COUNTED = {
    "woke_up": "wakes",
    "wake_failed": "failed_wakes",
    "hibernated": "hibernations",
    "hibernation_stopped": "stopped_hibernations",
}


def figures_of(instances: Sequence[Instance], *, start: datetime, end: datetime) -> dict[str, Figures]:
    """By instance id, for the time between start and end; three queries for all of them."""
    ids = [instance.pk for instance in instances]
    boxes: dict[str, list[Rental]] = defaultdict(list)
    for box in Box.objects.filter(instance__in=ids, rented_at__isnull=False).order_by("rented_at", "epoch"):
        assert box.rented_at is not None
        boxes[box.instance_id].append(Rental(Span(box.rented_at, box.gone_at), box.price_usd_per_h))
    stored: dict[str, list[Stored]] = defaultdict(list)
    for snapshot in Snapshot.objects.filter(workspace_ref__in=ids, committed_at__isnull=False):
        stored[snapshot.workspace_ref].append(_stored(snapshot))
    events: dict[str, list[Event]] = defaultdict(list)
    for event in _events(ids):
        events[event.subject_id].append(event)
    return {
        instance.pk: _figures(
            _history(instance, boxes[instance.pk], stored[instance.pk], events[instance.pk]),
            events[instance.pk],
            start=start,
            end=end,
        )
        for instance in instances
    }


def _events(ids: list[str]) -> Sequence[Event]:
    kinds = (
        Q(code__in=[*_COUNTED])
        | Q(to_state__in=(InstanceState.LOST, InstanceState.WAKING))
        | Q(from_state__in=(InstanceState.LOST, InstanceState.WAKING))
    )
    return Event.objects.filter(kinds, subject_type=Instance.SUBJECT, subject_id__in=ids).order_by("id")


def _stored(snapshot: Snapshot) -> Stored:
    assert snapshot.committed_at is not None
    gone = snapshot.state in (SnapshotState.DELETED, SnapshotState.FAILED)
    return Stored(Span(snapshot.committed_at, snapshot.state_since if gone else None), snapshot.stored_bytes)


def _history(instance: Instance, rentals: list[Rental], stored: list[Stored], events: list[Event]) -> History:
    given_up = instance.state == InstanceState.DELETED and instance.reason_code != KEPT
    return History(
        exists=Span(rentals[0].billed.start, instance.state_since if given_up else None) if rentals else None,
        rentals=tuple(rentals),
        stored=tuple(stored),
        lost=tuple(_spans(events, InstanceState.LOST)),
    )


def _spans(events: list[Event], state: str) -> list[Span]:
    """The times that were spent in a state."""
    spans: list[Span] = []
    for event in events:
        if event.from_state == state and spans and spans[-1].end is None:
            spans[-1] = replace(spans[-1], end=event.at)
        if event.to_state == state:
            spans.append(Span(event.at))
    return spans


def _figures(history: History, events: list[Event], *, start: datetime, end: datetime) -> Figures:
    counts: dict[str, int] = defaultdict(int)
    for event in events:
        if event.code in _COUNTED and start <= event.at < end:
            counts[_COUNTED[event.code]] += 1
    waited = sum(
        (span.within(start, end) for span in _spans(events, InstanceState.WAKING)), timedelta(0)
    ).total_seconds()
    return Figures(money=ledger(history, start=start, end=end), time=Paid(waiting_s=waited, **counts))
