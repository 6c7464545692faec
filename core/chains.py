"""Durable chains: rows advanced by idempotent steps that Celery workers execute.

A step is entered by claiming the row (a lease and the next fence, one UPDATE), does its effect, and leaves by one
UPDATE that only the holder of that fence can make; then the next step is rung at once. Whatever is lost in between,
a worker, a message, the broker's data, the tick rings the row again when its `next_at` is due. So a step may be
entered more than once, and each is written so that entering it again finds what it did before.

There is no canvas chain, no result backend and no waiting inside a worker: a step that has to wait returns Again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from core.chain_states import ChainState
from core.doorbell import ring
from core.errors import Busy, DomainError
from core.models import Chain, ChainStep
from core.reasons import Reason, because
from core.transitions import advance, event_add

log = logging.getLogger(__name__)

TASK = "core.chains.chain_step"
RETRY_S = (2, 5, 15, 30, 60, 120, 300)
"""How long to wait after the first, second, … failed attempt of a step; the last one repeats."""


class FenceLost(Exception):
    """Another worker has entered this chain since: whatever this one still wanted to write is refused."""


@dataclass(frozen=True)
class Next:
    """The step is done; go on with the next one, or end the chain after the last."""


@dataclass(frozen=True)
class Again:
    """Not yet: enter the same step again after after_s seconds (sooner if somebody nudges the chain)."""

    after_s: float
    reason: Reason


@dataclass(frozen=True)
class Goto:
    """Go back (or forward) to a named step, because."""

    step: str
    reason: Reason


@dataclass(frozen=True)
class Stop:
    """End the chain here. state: aborted (on purpose) or failed (could not be done)."""

    state: ChainState
    reason: Reason


Outcome = Next | Again | Goto | Stop


@dataclass
class Run:
    """One entry into a step: what the step function gets."""

    chain: Chain
    fence: int
    now: datetime

    @property
    def data(self) -> Mapping[str, Any]:
        """Facts that earlier entries kept. Written with `keep`, never in place."""
        return self.chain.data

    def keep(self, **facts: Any) -> None:
        """Write facts down before or after an effect, so that the next entry finds them. FenceLost if overtaken."""
        data = {**self.chain.data, **facts}
        if Chain.objects.filter(**self.guard()).update(data=data) != 1:
            raise FenceLost(self.chain.pk)
        self.chain.data = data

    def guard(self) -> dict[str, Any]:
        return {"pk": self.chain.pk, "fence": self.fence, "step": self.chain.step, "state": ChainState.ACTIVE}


class StepFunction(Protocol):
    def __call__(self, run: Run) -> Outcome: ...


@dataclass(frozen=True)
class Step:
    """One step of a definition.

    limit_minutes: how long it may go on, waiting included, before it counts as overdue.
    attempts: how often it may raise in a row. None in either: it never gives up, it tells a person and goes on.
    leases: how many lease lengths one entry may run; the task's time limit lies inside it.
    """

    name: str
    run: StepFunction
    limit_minutes: float | None
    attempts: int | None = 8
    leases: int = 1

    @property
    def lease_s(self) -> float:
        return settings.CHAIN_LEASE_S * self.leases


class EndFunction(Protocol):
    def __call__(self, chain: Chain, state: ChainState, reason: Reason, *, now: datetime) -> None: ...


@dataclass(frozen=True)
class Definition:
    """The steps of one kind of chain, and what its end means for the row that it is about.

    ended: called in the transaction that ends the chain. exhausted: a step used up its attempts or its time; returns
    what to do instead of ending the chain as failed (for example: take back what was begun), or None for that.
    alarmed: a step that never gives up is failing or overdue; tells a person, about every alarm_every_s.
    """

    kind: str
    steps: tuple[Step, ...]
    ended: EndFunction
    exhausted: Callable[[Run, Reason], Outcome | None] = lambda run, reason: None
    alarmed: Callable[[Chain, Reason], None] = lambda chain, reason: None
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(step.name for step in self.steps))

    def step(self, name: str) -> Step:
        return self.steps[self.names.index(name)]

    def after(self, name: str) -> str | None:
        index = self.names.index(name) + 1
        return self.names[index] if index < len(self.names) else None


_definitions: dict[str, Definition] = {}


def register(definition: Definition) -> Definition:
    """Make a kind of chain known. Called where the definition is written, imported by its app's ready()."""
    _definitions[definition.kind] = definition
    return definition


def definition_of(kind: str) -> Definition:
    return _definitions[kind]


def definitions() -> Mapping[str, Definition]:
    return dict(_definitions)


def chain_start(
    kind: str,
    *,
    subject_type: str,
    subject_id: str,
    owner_id: int | None,
    reason: Reason,
    by: str = "",
    data: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> Chain:
    """Create the chain at its first step and ring it. Call it in the transaction that moves the subject's state.

    Raises IntegrityError where the subject has an active chain already: one at a time, by a unique index.
    """
    now = now or timezone.now()
    chain = Chain.objects.create(
        kind=kind,
        subject_type=subject_type,
        subject_id=subject_id,
        owner_id=owner_id,
        by=by,
        state=ChainState.ACTIVE,
        step=definition_of(kind).names[0],
        step_since=now,
        next_at=now,
        data=dict(data or {}),
        created_at=now,
        **Chain.reason_columns(reason),
    )
    event_add(chain, "chain_started", reason=reason, by=by, now=now, to_state=ChainState.ACTIVE)
    chain_ring(chain)
    return chain


def chain_active(*, subject_type: str, subject_id: str) -> Chain | None:
    """The subject's active chain, if it has one."""
    return Chain.objects.filter(
        subject_type=subject_type, subject_id=subject_id, state=ChainState.ACTIVE
    ).first()


def chain_nudge(chain_id: str, *, now: datetime | None = None) -> bool:
    """What a waiting step waits for has happened: make the chain due now and ring it."""
    now = now or timezone.now()
    chain = Chain.objects.filter(pk=chain_id, state=ChainState.ACTIVE).first()
    if chain is None:
        return False
    Chain.objects.filter(pk=chain_id, state=ChainState.ACTIVE, next_at__gt=now).update(next_at=now)
    chain_ring(chain)
    return True


def chain_stop(
    chain: Chain, state: ChainState, *, reason: Reason, by: str = "", now: datetime | None = None
) -> None:
    """End an active chain from outside (an operator, activity). TransitionRefused where it has ended already.

    The fence moves with it, so that a step that is running at this moment can write nothing more.
    """
    now = now or timezone.now()
    with transaction.atomic():
        Chain.objects.filter(pk=chain.pk, state=ChainState.ACTIVE).update(fence=F("fence") + 1)
        _end(chain, state, reason, by=by, now=now)


def chains_due(*, now: datetime, limit: int = 200) -> list[Chain]:
    """Active chains whose time has come and whom no worker holds, the longest waiting first."""
    free = Q(lease_until__isnull=True) | Q(lease_until__lte=now)
    return list(
        Chain.objects.filter(free, state=ChainState.ACTIVE, next_at__lte=now).order_by("next_at")[:limit]
    )


def chain_ring(chain: Chain) -> None:
    """Ring a chain's present step, with a time limit that lies inside its lease."""
    ring(TASK, chain.pk, time_limit_s=definition_of(chain.kind).step(chain.step).lease_s * 0.95)


# -- one entry: claim, run, settle. Each is a function of its own so that each can be interrupted by a test. --------


def chain_enter(chain_id: str, *, now: datetime | None = None) -> bool:
    """Enter the chain's present step once, if it is due and free. True if this call did."""
    now = now or timezone.now()
    run = claim(chain_id, now=now)
    if run is None:
        return False
    outcome = perform(run)
    try:
        settle(run, outcome)
    except FenceLost:
        log.warning(
            "chain=%s step=%s overtaken, fence %d written off", run.chain.pk, run.chain.step, run.fence
        )
    return True


def claim(chain_id: str, *, now: datetime) -> Run | None:
    """Take the lease and the next fence by one guarded UPDATE; None where the row is not due, held, or over.

    A lease that ran out, instead of being given back, counts as a failed attempt: its worker died in this step, and a
    step that kills every worker (out of memory, say) must end at the cap like one that raises.
    """
    chain = Chain.objects.filter(pk=chain_id, state=ChainState.ACTIVE).first()
    if chain is None:
        return None
    died = 1 if chain.lease_until is not None else 0
    lease = timedelta(seconds=definition_of(chain.kind).step(chain.step).lease_s)
    free = Q(lease_until__isnull=True) | Q(lease_until__lte=now)
    won = Chain.objects.filter(
        free, pk=chain_id, state=ChainState.ACTIVE, next_at__lte=now, fence=chain.fence, step=chain.step
    ).update(fence=F("fence") + 1, runs=F("runs") + 1, attempts=F("attempts") + died, lease_until=now + lease)
    if won != 1:
        return None
    chain.refresh_from_db()
    return Run(chain=chain, fence=chain.fence, now=now)


def perform(run: Run) -> Outcome:
    """Run the step function. What it raises becomes an outcome: busy is put off, an error is tried again, up to a cap."""
    definition = definition_of(run.chain.kind)
    step = definition.step(run.chain.step)
    overdue = _overdue(run, step)
    if overdue is not None:
        if step.limit_minutes is not None:
            return definition.exhausted(run, overdue) or Stop(ChainState.FAILED, overdue)
        definition.alarmed(run.chain, overdue)
    if step.attempts is not None and run.chain.attempts >= step.attempts:
        reason = because("step_failed", step=step.name, attempts=run.chain.attempts, error="its worker died")
        return definition.exhausted(run, reason) or Stop(ChainState.FAILED, reason)
    try:
        outcome = step.run(run)
        run.chain.attempts = 0
        return outcome
    except FenceLost:
        return Again(0, because("step_retry", step=step.name, error="overtaken"))
    except Busy as error:
        return Again(error.retry_after_s, because("step_retry", step=step.name, error=error.message))
    except Exception as error:
        message = error.message if isinstance(error, DomainError) else f"{type(error).__name__}: {error}"
        log.exception("chain=%s step=%s attempt %d raised", run.chain.pk, step.name, run.chain.attempts + 1)
        return _after_error(run, definition, step, message[:500])


def settle(run: Run, outcome: Outcome) -> None:
    """Write the outcome, if this run still holds the fence. Raises FenceLost, and writes nothing, if it does not."""
    chain = run.chain
    now = timezone.now()
    with transaction.atomic():
        if Chain.objects.select_for_update().filter(**run.guard()).first() is None:
            raise FenceLost(chain.pk)
        if isinstance(outcome, Again):
            _rearm(chain, outcome, now)
            return
        _history(chain, outcome, now)
        if isinstance(outcome, Stop):
            _end(chain, outcome.state, outcome.reason, by="", now=now)
            return
        target = outcome.step if isinstance(outcome, Goto) else definition_of(chain.kind).after(chain.step)
        if target is None:
            _end(chain, ChainState.SUCCEEDED, because("chain_done"), by="", now=now)
        else:
            _enter_step(chain, target, outcome, now)


def _rearm(chain: Chain, outcome: Again, now: datetime) -> None:
    Chain.objects.filter(pk=chain.pk).update(
        lease_until=None,
        next_at=now + timedelta(seconds=outcome.after_s),
        attempts=chain.attempts,
        **Chain.reason_columns(outcome.reason),
    )


def _enter_step(chain: Chain, step: str, outcome: Outcome, now: datetime) -> None:
    log.info("chain=%s %s %s -> %s", chain.pk, chain.kind, chain.step, step)
    reason = (
        Chain.reason_columns(outcome.reason)
        if isinstance(outcome, Goto)
        else {"reason_code": "", "reason_params": {}}
    )
    Chain.objects.filter(pk=chain.pk).update(
        step=step, step_since=now, attempts=0, runs=0, lease_until=None, next_at=now, **reason
    )
    chain.step = step
    chain_ring(chain)


def _end(chain: Chain, state: ChainState, reason: Reason, *, by: str, now: datetime) -> None:
    advance(chain, state, reason=reason, by=by, now=now, ended_at=now, next_at=None, lease_until=None)
    definition_of(chain.kind).ended(chain, state, reason, now=now)


def _history(chain: Chain, outcome: Outcome, now: datetime) -> None:
    reason = Chain.reason_columns(outcome.reason) if isinstance(outcome, Goto | Stop) else {}
    ChainStep.objects.create(
        chain=chain,
        step=chain.step,
        started_at=chain.step_since,
        ended_at=now,
        runs=chain.runs,
        outcome=type(outcome).__name__.lower(),
        **reason,
    )


def _overdue(run: Run, step: Step) -> Reason | None:
    minutes = step.limit_minutes if step.limit_minutes is not None else 10.0
    if run.now - run.chain.step_since <= timedelta(minutes=minutes):
        return None
    return because("step_overdue", step=step.name, minutes=minutes)


def _after_error(run: Run, definition: Definition, step: Step, message: str) -> Outcome:
    run.chain.attempts += 1
    attempts = run.chain.attempts
    if step.attempts is not None and attempts >= step.attempts:
        reason = because("step_failed", step=step.name, attempts=attempts, error=message)
        return definition.exhausted(run, reason) or Stop(ChainState.FAILED, reason)
    reason = because("step_retry", step=step.name, error=message)
    if step.attempts is None and attempts % 5 == 0:
        definition.alarmed(run.chain, reason)
    return Again(RETRY_S[min(attempts, len(RETRY_S)) - 1], reason)
