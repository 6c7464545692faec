"""How a job has ended, once it is known what became of the files that it leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agent import wire
from agent.hold import Halt, Hold
from agent.wire import FinishPost

if TYPE_CHECKING:
    from agent.artifacts import Outcome


def finish_with(hold: Hold, finish: FinishPost, outcome: Outcome) -> FinishPost | None:
    """The report. A job whose files could not be kept has not succeeded; one that was cut short while they went up is
    cancelled, or begins anew elsewhere. None: stood down."""
    if hold.halt is Halt.STAND_DOWN:
        return None
    finish = replace(finish, result={**finish.result, "artifacts": outcome.as_result()})
    if outcome.stopped and hold.halt is Halt.CANCELLED:
        return replace(finish, outcome="cancelled", reason="cancelled while its artifacts were uploaded")
    if outcome.stopped and hold.halt is Halt.INTERRUPTED:
        why = hold.ending.reason if hold.ending else "this worker ends"
        reason = f"{why}, while its artifacts were uploaded"
        return replace(
            finish, outcome="interrupted", reason=reason, result={**finish.result, wire.WORKER_ENDS: True}
        )
    if outcome.failed and finish.outcome == "succeeded":
        path, why = outcome.failed[0]
        what = f"its artifact {path!r}" if path else "its artifacts"
        return replace(finish, outcome="failed", reason=f"{what} could not be uploaded: {why}")
    return finish
