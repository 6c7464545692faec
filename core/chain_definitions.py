"""What a kind of chain is made of: its steps, what a step may answer, and what the end means. Executed by `core.chains`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from django.conf import settings

from core.chain_states import ChainState
from core.models import Chain
from core.reasons import Reason

if TYPE_CHECKING:
    from core.chains import Run


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


class StepFunction(Protocol):
    def __call__(self, run: Run) -> Outcome: ...


@dataclass(frozen=True)
class Step:
    """One step of a definition.

    limit_minutes: how long it may go on, waiting included, before it counts as overdue. The time in which the control
    plane itself was away does not count.
    attempts: how often it may raise in a row. None in either: it never gives up, it tells a person and goes on.
    leases: how many lease lengths one entry may run. Beyond one, the lease is renewed while it runs.
    """

    name: str
    run: StepFunction
    limit_minutes: float | None
    attempts: int | None = 8
    leases: int = 1

    @property
    def lease_s(self) -> float:
        """What a worker claims at once: a killed one is replaced after this, however long the step may run."""
        return float(settings.CHAIN_LEASE_S)

    @property
    def time_limit_s(self) -> float:
        """When the task that runs it is killed: inside its last lease."""
        return self.lease_s * self.leases * 0.95


class EndFunction(Protocol):
    def __call__(self, chain: Chain, state: ChainState, reason: Reason, *, now: datetime) -> None: ...


@dataclass(frozen=True)
class Definition:
    """The steps of one kind of chain, and what its end means for the row that it is about.

    ended: called in the transaction that ends the chain. exhausted: a step used up its attempts or its time; returns
    what to do instead of ending the chain as failed (for example: take back what was begun), or None for that.
    alarmed: a step that never gives up is failing or overdue; tells a person, at most every `core.chains.ALARM_EVERY_S`.
    stoppable: raises TransitionRefused where the chain cannot be stopped from outside any more. Called with the
    chain's row locked, so that what it sees stays true until the chain has ended.
    """

    kind: str
    steps: tuple[Step, ...]
    ended: EndFunction
    exhausted: Callable[[Run, Reason], Outcome | None] = lambda run, reason: None
    alarmed: Callable[[Chain, Reason], None] = lambda chain, reason: None
    stoppable: Callable[[Chain], None] = lambda chain: None
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
