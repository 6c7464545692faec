"""`advance`, and `advance_many` for rows by the thousand: the only ways a state changes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Model, QuerySet
from django.utils import timezone

from core.bulk import update_rows
from core.errors import TransitionRefused
from core.models import Event, Stateful
from core.reasons import Reason

log = logging.getLogger(__name__)


def advance(
    row: Stateful,
    to: str,
    *,
    reason: Reason,
    by: str = "",
    now: datetime | None = None,
    fence: int | None = None,
    data: dict[str, Any] | None = None,
    **changes: Any,
) -> None:
    """Move `row` to state `to` by one guarded UPDATE, with its event row in the same transaction.

    The guard is what this copy of the row believes: primary key, state, and its FENCE column. A copy that is stale
    in any of them is refused with TransitionRefused, which names the state that was found; nothing is written then.
    `changes` are further columns of the same UPDATE; `fence` sets the FENCE column (a new epoch or attempt);
    `data` goes on the event. On return the copy is up to date in every column that was written.
    """
    now = now or timezone.now()
    source, target = str(row.state), str(to)
    if not row.TABLE.allows(source, target):
        raise _refused(row, target, found=source)
    columns = {
        **changes,
        **row.reason_columns(reason),
        "state": target,
        "state_since": now,
        "state_deadline": row.TABLE.deadline(target, now=now),
    }
    guard: dict[str, Any] = {"pk": row.pk, "state": source}
    if row.FENCE:
        guard[row.FENCE] = getattr(row, row.FENCE)
        if fence is not None:
            columns[row.FENCE] = fence
    # No savepoint: a refusal has written nothing, and is raised where it spoils no transaction around this one.
    with transaction.atomic(savepoint=False):
        moved = type(row)._default_manager.filter(**guard).update(**columns) == 1
        if moved:
            event_add(
                row,
                row.TABLE.event(source, target),
                reason=reason,
                by=by,
                now=now,
                from_state=source,
                to_state=target,
                data=data,
            )
    if not moved:
        raise _refused(row, target, found=_found(row))
    for name, value in columns.items():
        setattr(row, name, value)
    log.info(
        "%s=%s %s -> %s reason=%r by=%s", row.SUBJECT, row.pk, source, target, str(reason), by or "system"
    )


def advance_many(
    rows: QuerySet[Any],
    to: str,
    *,
    source: str,
    reason: Reason,
    by: str = "",
    now: datetime | None = None,
    at_most: int = 1_000,
    **changes: Any,
) -> int:
    """Move the rows that are in state `source` to `to`, at most so many at once, by one guarded UPDATE; returns how many.

    As `advance`, for rows that nobody has read: they are locked, moved, and get an event each, in one transaction. Ask
    again until fewer than `at_most` were moved. `rows` joins no other table.
    """
    model = rows.model
    now = now or timezone.now()
    if not model.TABLE.allows(source, to):
        raise TransitionRefused(f"no {model.SUBJECT} may go from {source} to {to}")
    columns = {
        **changes,
        **model.reason_columns(reason),
        "state": str(to),
        "state_since": now,
        "state_deadline": model.TABLE.deadline(to, now=now),
    }
    with transaction.atomic():
        # In the order of their keys, so that two callers never wait for each other.
        held = rows.filter(state=source).order_by("pk").select_for_update()
        found = list(held.only("pk", "state", *model.EVENT_COLUMNS)[:at_most])
        if not found:
            return 0
        model._default_manager.filter(pk__in=[row.pk for row in found], state=source).update(**columns)
        Event.objects.bulk_create(
            Event(
                at=now,
                subject_type=row.SUBJECT,
                subject_id=str(row.pk),
                code=model.TABLE.event(source, to),
                from_state=source,
                to_state=str(to),
                by=by,
                owner_id=row.event_owner_id(),
                data=row.event_data(),
                **model.reason_columns(reason),
            )
            for row in found
        )
    log.info(
        "%d %ss %s -> %s reason=%r by=%s", len(found), model.SUBJECT, source, to, str(reason), by or "system"
    )
    return len(found)


@dataclass(frozen=True, kw_only=True)
class Move:
    """One row that is moved with others. row: a copy that was read under its lock. columns: further ones to write."""

    row: Stateful
    reason: Reason
    columns: Mapping[str, Any] = field(default_factory=dict)


def advance_each(moves: Sequence[Move], to: str, *, now: datetime) -> None:
    """As `advance`, for rows of one model by the thousand, each with a reason and columns of its own (of the same names).

    Call it in the transaction that holds their locks. A few statements in all, guarded by primary key, state and FENCE:
    where one of the rows is not what its copy believes, none is moved and TransitionRefused is raised.
    """
    if not moves:
        return
    model, target = type(moves[0].row), str(to)
    deadline = model.TABLE.deadline(target, now=now)
    by_source: dict[str, list[tuple[Move, dict[str, Any]]]] = {}
    for move in moves:
        if not model.TABLE.allows(str(move.row.state), target):
            raise _refused(move.row, target, found=str(move.row.state))
        columns = {**move.columns, **move.row.reason_columns(move.reason), "state": target}
        columns |= {"state_since": now, "state_deadline": deadline}
        by_source.setdefault(str(move.row.state), []).append((move, columns))
    match = ("id", model.FENCE) if model.FENCE else ("id",)
    with transaction.atomic():
        for source, some in by_source.items():
            rows = [
                {**{name: getattr(move.row, name) for name in match}, **columns} for move, columns in some
            ]
            if update_rows(model, rows, match=match, only={"state": source}) != len(rows):
                raise TransitionRefused(
                    f"of {len(rows)} {model.SUBJECT}s that were {source} some have moved meanwhile",
                    hint="read them again",
                )
        Event.objects.bulk_create(
            Event(
                at=now,
                subject_type=model.SUBJECT,
                subject_id=str(move.row.pk),
                code=model.TABLE.event(source, target),
                from_state=source,
                to_state=target,
                owner_id=move.row.event_owner_id(),
                data=move.row.event_data(),
                **move.row.reason_columns(move.reason),
            )
            for source, some in by_source.items()
            for move, _ in some
        )
    for some in by_source.values():
        for move, columns in some:
            for name, value in columns.items():
                setattr(move.row, name, value)
    first = moves[0]
    log.info("%d %ss -> %s, first %s=%s reason=%r", len(moves), model.SUBJECT, target, model.SUBJECT,
             first.row.pk, str(first.reason))  # fmt: skip


def event_add(
    row: Stateful,
    code: str,
    *,
    reason: Reason,
    by: str = "",
    now: datetime | None = None,
    from_state: str = "",
    to_state: str = "",
    data: dict[str, Any] | None = None,
) -> Event:
    """Record something that happened to `row` without moving its state (or, from advance, with it)."""
    return Event.objects.create(
        at=now or timezone.now(),
        subject_type=row.SUBJECT,
        subject_id=str(row.pk),
        code=code,
        from_state=from_state,
        to_state=to_state,
        by=by,
        owner_id=row.event_owner_id(),
        data={**row.event_data(), **(data or {})},
        **row.reason_columns(reason),
    )


def _found(row: Model) -> str:
    current = type(row)._default_manager.filter(pk=row.pk).first()
    if current is None:
        return "gone"
    fence = f" ({current.FENCE} {getattr(current, current.FENCE)})" if current.FENCE else ""
    return f"{current.state}{fence}"


def _refused(row: Stateful, target: str, *, found: str) -> TransitionRefused:
    return TransitionRefused(
        f"{row.SUBJECT} {row.pk} cannot become {target}: it is {found}",
        hint="read it again: something else has moved it, or the change is not one that its state allows",
        found=found,
    )
