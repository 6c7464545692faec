"""Asking an instance's agent for a piece of work from inside a step, and coming back for the answer."""

from __future__ import annotations

from typing import Any

from pool.services.dispatches import dispatch_ask

from core.chains import Run
from hibernation.models import Instance
from pool.models import Dispatch
from pool.states import OPEN, DispatchState

POLL_S = 5.0
"""How often a waiting step looks by itself. It is nudged as soon as the agent reports, so this costs no latency."""

BROKEN_OFF = (DispatchState.INTERRUPTED, DispatchState.WITHDRAWN)
"""Ends of a dispatch that say nothing about the work itself: it may be asked for again."""


def ask(
    run: Run, instance: Instance, *, kind: str, ref: str, work: dict[str, Any], attempt: int = 0
) -> Dispatch:
    """The dispatch of this step and attempt: asked for the first time, found every time after that."""
    assert instance.worker is not None, "an instance with a chain has a worker"
    return dispatch_ask(
        worker=instance.worker,
        kind=kind,
        ref=ref,
        key=f"{run.chain.pk}:{run.chain.step}:{instance.epoch}:{attempt}",
        work=work,
    )


def is_open(dispatch: Dispatch) -> bool:
    return dispatch.state in OPEN


def ended_with(dispatch: Dispatch) -> str:
    """How a dispatch ended, in words."""
    return str(dispatch.result.get("reason") or dispatch.reason or dispatch.state)
