"""Edge tables: which state may follow which, and why. One table a kind of row; `core.transitions` enforces it.

Every state is stable, final, or has a time limit and a way out; a table that breaks this does not import.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Edge:
    """One allowed change. sentence: why it happens. event: what its event row is called; empty: the new state's name."""

    sentence: str
    event: str = ""


@dataclass(frozen=True)
class Limit:
    """How long a state may last, and the way out. then=None: tell a person and go on trying."""

    minutes: float
    then: str | None


class StateTable:
    """The states of one kind of row.

    states: name -> one sentence; edges: (from, to) -> Edge; limits: state -> Limit; stable: states that may last
    for ever; final: states that nothing leaves. Raises ValueError where the table contradicts itself.
    """

    def __init__(
        self,
        name: str,
        *,
        states: Mapping[str, str],
        edges: Mapping[tuple[str, str], Edge | str],
        limits: Mapping[str, Limit] | None = None,
        stable: frozenset[str] | set[str] = frozenset(),
        final: frozenset[str] | set[str] = frozenset(),
    ) -> None:
        self.name = name
        self.states = {str(state): sentence for state, sentence in states.items()}
        self.edges = {
            (str(a), str(b)): edge if isinstance(edge, Edge) else Edge(edge) for (a, b), edge in edges.items()
        }
        self.limits = {str(state): limit for state, limit in (limits or {}).items()}
        self.stable = frozenset(map(str, stable))
        self.final = frozenset(map(str, final))
        self._check()

    def _check(self) -> None:
        for a, b in self.edges:
            if a not in self.states or b not in self.states:
                raise ValueError(f"{self.name}: edge {a} -> {b} names an unknown state")
        for state in self.states:
            kinds = [state in self.limits, state in self.stable, state in self.final]
            if sum(kinds) != 1:
                raise ValueError(f"{self.name}: {state} must be one of limited, stable or final")
            leaves = [b for a, b in self.edges if a == state]
            if (state in self.final) == bool(leaves):
                raise ValueError(f"{self.name}: {state} is final if and only if no edge leaves it")
        for state, limit in self.limits.items():
            if limit.then is not None and (state, str(limit.then)) not in self.edges:
                raise ValueError(f"{self.name}: the way out of {state}, to {limit.then}, is not an edge")

    def allows(self, source: str, target: str) -> bool:
        return (str(source), str(target)) in self.edges

    def edge(self, source: str, target: str) -> Edge:
        return self.edges[(str(source), str(target))]

    def event(self, source: str, target: str) -> str:
        """What the event row of this change is called."""
        return self.edge(source, target).event or str(target)

    def deadline(self, state: str, *, now: datetime) -> datetime | None:
        """When a row that enters this state now must have left it; None for a stable or final one."""
        limit = self.limits.get(str(state))
        return now + timedelta(minutes=limit.minutes) if limit else None

    def choices(self) -> list[tuple[str, str]]:
        return [(state, state.replace("_", " ")) for state in self.states]

    def mermaid(self) -> str:
        """The table as a Mermaid state diagram: what the documents show, checked by a test."""
        first = next(iter(self.states))
        lines = ["stateDiagram-v2", f"    [*] --> {first}"]
        lines += [f"    {a} --> {b}: {edge.sentence}" for (a, b), edge in self.edges.items()]
        lines += [f"    {state} --> [*]" for state in self.states if state in self.final]
        return "\n".join(lines)

    def limits_table(self) -> str:
        """What each state means and how long it may last, as a Markdown table."""
        rows = ["| state | meaning | at most | then |", "|---|---|---|---|"]
        for state, sentence in self.states.items():
            limit = self.limits.get(state)
            most = f"{limit.minutes:g} min" if limit else ("for ever" if state in self.stable else "the end")
            then = "–" if not limit else (limit.then or "a person is told, it goes on trying")
            rows.append(f"| {state} | {sentence} | {most} | {then} |")
        return "\n".join(rows)
