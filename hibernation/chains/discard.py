"""Destroying a box unsaved, because its owner said so in so many words: destroy, confirm."""

from __future__ import annotations

from datetime import datetime

from core.chain_states import ChainState
from core.chains import Definition, Next, Outcome, Run, Step, register
from core.models import Chain
from core.reasons import Reason, because
from core.transitions import advance
from hibernation.chains import hibernate
from hibernation.chains.subject import instance_of, subject
from hibernation.models import Box
from hibernation.services import boxes
from hibernation.services.hibernate import back_to_running, untouched
from hibernation.states import BoxState, InstanceState


def destroy(run: Run) -> Outcome:
    """The row says who discarded it, then the provider is asked."""
    instance = subject(run)
    box = hibernate.box_of(run, instance)
    if box.state == BoxState.GONE:
        boxes.box_gone_discard(box, by=run.chain.by)
    elif box.state != BoxState.DESTROYING:
        with run.holding():
            reason = because("box_discarded", by=run.chain.by)
            boxes.worker_stands_down(instance, reason=reason, now=run.now)
            boxes.box_discard(box, by=run.chain.by, now=run.now)
    if box.state == BoxState.DESTROYING and box.provider_ref:
        boxes.provider_of(box.account).destroy(box.provider_ref)
    return Next()


def ended(chain: Chain, state: ChainState, reason: Reason, *, now: datetime) -> None:
    """Given up; or, where that was stopped in time, awake as before."""
    instance = instance_of(chain)
    if state != ChainState.SUCCEEDED:
        back_to_running(instance, reason=reason, now=now)
        return
    box = Box.objects.get(pk=chain.data["box"])
    advance(
        instance,
        InstanceState.DELETED,
        reason=because("discarded_and_gone", box=box.provider_ref),
        by=chain.by,
        now=now,
        idle_since=None,
        idle_due_at=None,
        keep_awake_until=None,
        gpu_util=None,
    )


DISCARD = register(
    Definition(
        kind="discard",
        steps=(
            Step("destroy", destroy, limit_minutes=None, attempts=None),
            Step("confirm", hibernate.confirm, limit_minutes=None, attempts=None),
        ),
        ended=ended,
        alarmed=hibernate.alarmed,
        stoppable=untouched,
    )
)
