"""When a worker must begin to end what it runs, so that all of it is done before its session is. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from agent.errors import ENDED_AS_ASKED
from agent.session import LIMIT_REPORT_S, Ending

MARGIN_S = 30.0
"""For the reports, the last output and the provider's own haste."""

FIRST_CHECKPOINT_S = 60.0
"""How long the first checkpoint of a job is thought to take at least."""

FIRST_BYTES_PER_S, FIRST_FILES_PER_S = 8 * 1024**2, 500.0
"""How fast it is thought to go beyond that: one core and a modest line, so that it rather begins too early."""

LONGEST_PART = 0.25
"""However much there is to do, a session works for three quarters of its time at least."""

MARGIN_PART = 0.1


@dataclass(frozen=True, kw_only=True)
class Owed:
    """What the end of one piece of work may take: its grace, then its last checkpoint (0: it keeps none)."""

    grace_s: float
    checkpoint_s: float = 0.0


def first_checkpoint_s(*, files: int, size_bytes: int) -> float:
    """How long it may take to keep so much for the first time, where nothing has been measured yet."""
    return max(FIRST_CHECKPOINT_S, size_bytes / FIRST_BYTES_PER_S + files / FIRST_FILES_PER_S)


def lead_s(owed: Collection[Owed], *, limit_s: float) -> float:
    """How long before the session's limit the end must begin. All graces run at once, all checkpoints share one line."""
    if not owed:
        return 0.0
    needed_s = max(one.grace_s for one in owed) + sum(one.checkpoint_s for one in owed) + MARGIN_S
    return min(needed_s, LONGEST_PART * limit_s)


def near_end(
    owed: Collection[Owed], *, runtime_s: float, limit_s: float, what: str = "the session's limit"
) -> Ending | None:
    """The end, if it must begin now. What is left is shared out: margin, the checkpoints' expected time, then graces."""
    left_s = limit_s - runtime_s
    if not owed or left_s > lead_s(owed, limit_s=limit_s):
        return None
    work_s = max(0.0, left_s - min(MARGIN_S, MARGIN_PART * limit_s, left_s / 2))
    checkpoints_s = min(sum(one.checkpoint_s for one in owed), 0.6 * work_s)
    grace_s = min(max(one.grace_s for one in owed), work_s - checkpoints_s)
    return Ending(
        reason=f"{what} of {limit_s / 3600:g} h is near",
        exit_code=ENDED_AS_ASKED,
        grace_s=grace_s,
        checkpoint_by_s=work_s,
        report_s=LIMIT_REPORT_S,
    )
