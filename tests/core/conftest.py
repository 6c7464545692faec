"""A kind of chain of the tests' own, and the rows that tests move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import User

from core import chain_definitions, chains
from core.chain_states import ChainState
from core.models import Chain
from core.reasons import Reason, because

NOON = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice")


class Story:
    """A chain whose steps do what the test says, and that remembers what happened to it."""

    def __init__(self, *names: str, **limits: Any) -> None:
        self.does: dict[str, Callable[[chains.Run], chains.Outcome]] = {}
        self.entered: list[str] = []
        self.ended: list[tuple[ChainState, str]] = []
        self.alarms: list[str] = []
        self.instead: chains.Outcome | None = None
        steps = tuple(
            chains.Step(name, self._step(name), **{"limit_minutes": 60, "attempts": 3, **limits})
            for name in names
        )
        self.definition = chains.Definition(
            "story",
            steps,
            ended=self._ended,
            exhausted=lambda run, reason: self.instead,
            alarmed=lambda chain, reason: self.alarms.append(str(reason)),
        )

    def start(self) -> Chain:
        return chains.chain_start(
            "story",
            subject_type="thing",
            subject_id="t1",
            owner_id=None,
            reason=because("created"),
            now=NOON,
        )

    def _step(self, name: str) -> Callable[[chains.Run], chains.Outcome]:
        def run(run: chains.Run) -> chains.Outcome:
            self.entered.append(name)
            does = self.does.get(name)
            return does(run) if does else chains.Next()

        return run

    def _ended(self, chain: Chain, state: ChainState, reason: Reason, *, now: datetime) -> None:
        self.ended.append((state, str(reason)))


@pytest.fixture
def story(db: None) -> Iterator[Callable[..., Story]]:
    """story("one", "two") is a registered kind of chain with these steps; keywords go to every Step."""
    before = dict(chain_definitions._definitions)

    def make(*names: str, **limits: Any) -> Story:
        told = Story(*names, **limits)
        chains.register(told.definition)
        return told

    yield make
    chain_definitions._definitions.clear()
    chain_definitions._definitions.update(before)
