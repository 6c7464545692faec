"""Asking an instance's agent for a piece of work from inside a step, and coming back for the answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from core.chains import Run
from core.reasons import Reason
from hibernation.models import Instance
from pool.models import Dispatch
from pool.services.dispatches import dispatch_ask, dispatch_withdraw
from pool.states import LISTENING, OPEN, DispatchState

POLL_S = 5.0
"""How often a waiting step looks by itself. It is nudged as soon as the agent reports, so this costs no latency."""

SILENCE = timedelta(minutes=10)
"""How long a step waits for an agent that has gone silent on a box that the provider still has."""

BROKEN_OFF = (DispatchState.INTERRUPTED, DispatchState.WITHDRAWN)
"""Ends of a dispatch that say nothing about the work itself: it may be asked for again."""


def ask(
    run: Run, instance: Instance, *, kind: str, ref: str, work: dict[str, Any], attempt: int = 0
) -> Dispatch:
    """The dispatch of this step and attempt: asked for the first time, found every time after that. Within `holding`.

    Raises Busy where the agent is not there to take it.
    """
    assert instance.worker is not None, "an instance with a chain has a worker"
    return dispatch_ask(
        worker=instance.worker,
        kind=kind,
        ref=ref,
        key=f"{run.chain.pk}:{run.chain.step}:{instance.epoch}:{attempt}",
        work=work,
        now=run.now,
    )


def is_open(dispatch: Dispatch) -> bool:
    return dispatch.state in OPEN


def ended_with(dispatch: Dispatch) -> str:
    """How a dispatch ended, in words."""
    return str(dispatch.result.get("reason") or dispatch.reason or dispatch.state)


def take_back(chain_id: str, *, reason: Reason, now: Any) -> None:
    """Whatever the agent was asked for by this chain and has not ended is not wanted any more."""
    for dispatch in Dispatch.objects.filter(key__startswith=f"{chain_id}:", state__in=OPEN):
        dispatch_withdraw(dispatch, reason=reason, now=now)


def agent_silent(run: Run, instance: Instance) -> timedelta | None:
    """For how long the agent of this box has been away; None while it answers."""
    worker = instance.worker
    if worker is not None and worker.state in LISTENING and worker.epoch == instance.epoch:
        return None
    since = max(run.chain.step_since, worker.state_since) if worker is not None else run.chain.step_since
    return min(run.now - since, run.step_age)
