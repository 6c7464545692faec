"""Durable chains: rows advanced by idempotent steps that Celery workers execute.

A step is entered by claiming the row (a lease and the next fence, one UPDATE), does its effect, and leaves by one
UPDATE that only the holder of that fence can make; then the next step is rung at once. Whatever is lost in between,
a worker, a message, the broker's data, the tick rings the row again when its `next_at` is due. So a step may be
entered more than once, and each is written so that entering it again finds what it did before.

There is no canvas chain, no result backend and no waiting inside a worker: a step that has to wait returns Again.
Whoever takes several rows' locks takes the chain's first: a step through `Run.holding`, everybody else through
`chain_stop`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, connection, transaction
from django.db.models import F, Q
from django.utils import timezone

from core.chain_definitions import (
    Again,
    Definition,
    Goto,
    Next,
    Outcome,
    Step,
    StepFunction,
    Stop,
    definition_of,
    definitions,
    register,
)
from core.chain_states import ChainState
from core.doorbell import ring
from core.errors import Busy, DomainError, TransitionRefused
from core.models import Chain, ChainStep
from core.reasons import Reason, because
from core.ticks import resumed_at
from core.transitions import advance, event_add

__all__ = [
    "Again", "Definition", "FenceLost", "Goto", "Next", "Outcome", "Run", "Step", "StepFunction", "Stop",
    "chain_active", "chain_enter", "chain_nudge", "chain_ring", "chain_start", "chain_stop", "chains_due",
    "definition_of", "definitions", "register",
]  # fmt: skip

log = logging.getLogger(__name__)

TASK = "core.chains.chain_step"
TICK = "core.chains_tick"
TICK_S = 5.0
"""How often the tick rings what is due: a step that wants to be entered again sooner is rung by its own message."""

RETRY_S = (2, 5, 15, 30, 60, 120, 300)
"""How long to wait after the first, second, … failed attempt of a step; the last one repeats."""

ALARM_AFTER_MINUTES = 10.0
ALARM_AFTER_ATTEMPTS = 5
ALARM_EVERY_S = 600.0
"""A step without a limit tells a person after this long, or this many failures in a row, and then this often."""


class FenceLost(Exception):
    """Another worker has entered this chain since, or it was stopped: whatever this one still wanted to write is refused."""


@dataclass
class Run:
    """One entry into a step: what the step function gets. overtaken: set once a renewal of the lease was refused."""

    chain: Chain
    fence: int
    now: datetime
    overtaken: threading.Event = field(default_factory=threading.Event)

    @property
    def data(self) -> Mapping[str, Any]:
        """Facts that earlier entries kept. Written with `keep`, never in place."""
        return self.chain.data

    @property
    def step_age(self) -> timedelta:
        """How long the step has gone on, without the time in which the control plane itself was away."""
        back = resumed_at(TICK)
        since = self.chain.step_since
        return self.now - (max(since, back) if back is not None else since)

    def keep(self, **facts: Any) -> None:
        """Write facts down before or after an effect, so that the next entry finds them. FenceLost if overtaken."""
        data = {**self.chain.data, **facts}
        if Chain.objects.filter(**self.guard()).update(data=data) != 1:
            raise FenceLost(self.chain.pk)
        self.chain.data = data

    @contextmanager
    def holding(self) -> Iterator[None]:
        """A transaction in which nobody can stop or overtake this run; whoever tries waits for its end.

        FenceLost, with nothing written, where somebody already has. Everything that a step writes about other rows
        belongs inside; nothing that waits for a network does.
        """
        kept = self.chain.data
        try:
            with transaction.atomic():
                if Chain.objects.select_for_update().filter(**self.guard()).first() is None:
                    raise FenceLost(self.chain.pk)
                yield
        except BaseException:
            self.chain.data = kept
            raise

    def guard(self) -> dict[str, Any]:
        return {"pk": self.chain.pk, "fence": self.fence, "step": self.chain.step, "state": ChainState.ACTIVE}


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
    """What a waiting step waits for has happened: make the chain due now and ring it.

    A step that is running at this moment is entered again as soon as it has settled: it may have looked too early.
    """
    now = now or timezone.now()
    if Chain.objects.filter(pk=chain_id, state=ChainState.ACTIVE).update(next_at=now) != 1:
        return False
    chain = Chain.objects.filter(pk=chain_id, state=ChainState.ACTIVE).first()
    if chain is not None:
        chain_ring(chain)
    return True


def chain_stop(
    chain: Chain, state: ChainState, *, reason: Reason, by: str = "", now: datetime | None = None
) -> Chain:
    """End an active chain from outside (an operator, activity) and return it as it ended.

    TransitionRefused where it has ended already, or where its definition says that it is too late to stop it. A step
    that is running at this moment can write nothing more, and nothing that it does inside `Run.holding` happens.
    """
    now = now or timezone.now()
    with transaction.atomic():
        row = Chain.objects.select_for_update().filter(pk=chain.pk, state=ChainState.ACTIVE).first()
        if row is None:
            raise TransitionRefused(f"chain {chain.pk} has ended already", hint="read it again")
        definition_of(row.kind).stoppable(row)
        Chain.objects.filter(pk=row.pk).update(fence=F("fence") + 1)
        _end(row, state, reason, by=by, now=now)
    return row


def chains_due(*, now: datetime, limit: int = 200) -> list[Chain]:
    """Active chains whose time has come and whom no worker holds, the longest waiting first."""
    free = Q(lease_until__isnull=True) | Q(lease_until__lte=now)
    return list(
        Chain.objects.filter(free, state=ChainState.ACTIVE, next_at__lte=now).order_by("next_at")[:limit]
    )


def chain_ring(chain: Chain, *, after_s: float = 0.0) -> None:
    """Ring a chain's present step, in after_s seconds, with a time limit that lies inside its lease."""
    limit_s = definition_of(chain.kind).step(chain.step).time_limit_s
    ring(TASK, chain.pk, time_limit_s=limit_s, after_s=after_s)


# -- one entry: claim, run, settle. Each is a function of its own so that each can be interrupted by a test. --------


def chain_enter(chain_id: str, *, now: datetime | None = None) -> bool:
    """Enter the chain's present step once, if it is due and free. True if this call did."""
    run = claim(chain_id, now=now or timezone.now())
    if run is None:
        return False
    outcome = perform(run)
    try:
        settle(run, outcome)
    except FenceLost:
        log.warning(
            "chain=%s step=%s overtaken, fence %d written off", run.chain.pk, run.chain.step, run.fence
        )
    except Exception as error:
        # What the outcome means for the subject could not be written. The chain must not stay under a lease for that.
        log.exception("chain=%s step=%s could not settle %r", run.chain.pk, run.chain.step, outcome)
        settle(run, _unsettled(run, error))
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
    free = Q(lease_until__isnull=True) if not died else Q(lease_until=chain.lease_until, lease_until__lte=now)
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
    try:
        given_up = _given_up(run, definition, step)
        if given_up is not None:
            return given_up
        with _renewing(run, step):
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
        row = Chain.objects.select_for_update().filter(**run.guard()).first()
        if row is None:
            raise FenceLost(chain.pk)
        if isinstance(outcome, Again):
            _rearm(chain, outcome, now, nudged=row.next_at != chain.next_at)
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


def _rearm(chain: Chain, outcome: Again, now: datetime, *, nudged: bool) -> None:
    after_s = 0.0 if nudged else outcome.after_s
    Chain.objects.filter(pk=chain.pk).update(
        lease_until=None,
        next_at=now + timedelta(seconds=after_s),
        attempts=chain.attempts,
        **Chain.reason_columns(outcome.reason),
    )
    if after_s < TICK_S:
        chain_ring(chain, after_s=after_s)


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
    with transaction.atomic():
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


# -- limits, attempts, alarms ----------------------------------------------------------------------------------------


def _given_up(run: Run, definition: Definition, step: Step) -> Outcome | None:
    """What to do in place of the step, where its time or its attempts are used up. One without a limit only alarms."""
    minutes = ALARM_AFTER_MINUTES if step.limit_minutes is None else step.limit_minutes
    limit = timedelta(minutes=minutes)
    if run.now - run.chain.step_since > limit and run.step_age > limit:
        reason = because("step_overdue", step=step.name, minutes=minutes)
        if step.limit_minutes is not None:
            return definition.exhausted(run, reason) or Stop(ChainState.FAILED, reason)
        _alarm(run, definition, reason)
    if step.attempts is not None and run.chain.attempts >= step.attempts:
        reason = because("step_failed", step=step.name, attempts=run.chain.attempts, error="its worker died")
        return definition.exhausted(run, reason) or Stop(ChainState.FAILED, reason)
    return None


def _after_error(run: Run, definition: Definition, step: Step, message: str) -> Outcome:
    run.chain.attempts += 1
    attempts = run.chain.attempts
    try:
        if step.attempts is not None and attempts >= step.attempts:
            reason = because("step_failed", step=step.name, attempts=attempts, error=message)
            return definition.exhausted(run, reason) or Stop(ChainState.FAILED, reason)
        reason = because("step_retry", step=step.name, error=message)
        if step.attempts is None and attempts >= ALARM_AFTER_ATTEMPTS:
            _alarm(run, definition, reason)
    except FenceLost:
        reason = because("step_retry", step=step.name, error="overtaken")
    return Again(_retry_s(attempts), reason)


def _unsettled(run: Run, error: Exception) -> Again:
    """Tried again, as often as it takes: a subject that cannot be moved on must not be left behind in silence."""
    definition = definition_of(run.chain.kind)
    unsettled = int(run.data.get("unsettled", 0)) + 1
    message = error.message if isinstance(error, DomainError) else f"{type(error).__name__}: {error}"
    reason = because("step_retry", step=run.chain.step, error=message[:500])
    run.keep(unsettled=unsettled)
    if unsettled >= ALARM_AFTER_ATTEMPTS:
        _alarm(run, definition, reason)
    return Again(_retry_s(unsettled), reason)


def _retry_s(attempts: int) -> float:
    return RETRY_S[min(attempts, len(RETRY_S)) - 1]


def _alarm(run: Run, definition: Definition, reason: Reason) -> None:
    """Tell a person, unless one was told a short while ago."""
    told = run.data.get("alarmed_at")
    if told and run.now - datetime.fromisoformat(str(told)) < timedelta(seconds=ALARM_EVERY_S):
        return
    with run.holding():
        run.keep(alarmed_at=run.now.isoformat())
        definition.alarmed(run.chain, reason)
    log.error("chain=%s %s step=%s %s", run.chain.pk, run.chain.kind, run.chain.step, reason)


@contextmanager
def _renewing(run: Run, step: Step) -> Iterator[None]:
    """Keep the lease of a step that may run longer than one, from a thread beside it that dies with its process."""
    if step.leases == 1:
        yield
        return
    over = threading.Event()
    beside = threading.Thread(
        target=_renew, args=(run, step, over), name=f"lease {run.chain.pk}", daemon=True
    )
    beside.start()
    try:
        yield
    finally:
        over.set()
        beside.join()


def _renew(run: Run, step: Step, over: threading.Event) -> None:
    try:
        while not over.wait(step.lease_s / 3):
            until = timezone.now() + timedelta(seconds=step.lease_s)
            try:
                if Chain.objects.filter(**run.guard()).update(lease_until=until) != 1:
                    run.overtaken.set()
                    return
            except DatabaseError as error:
                log.warning("chain=%s lease not renewed: %s", run.chain.pk, error)
    finally:
        connection.close()
