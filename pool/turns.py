"""Whose job is next, when not all can be placed: the queue between tenants. Pure.

The highest priority first, whoever's it is. Within it the tenant with the fewest jobs on workers, then the one who was
served longest ago, then the one whose job has waited longest; and of one tenant the oldest job.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from heapq import heapify, heappop, heappush, heapreplace

from pool.select import Need

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
"""When a tenant was served who never was."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """The queued jobs of one tenant and priority that need the same. first_at: since when the oldest has waited."""

    key: str
    priority: int
    need: Need
    first_at: datetime


class Turns:
    """The lines in which jobs wait, as they are after what was given so far.

    running: tenant -> jobs on workers; served: tenant -> when last given a worker. `next` says whose turn it is; then
    say what became of it with `given`, `moved` or `over`.
    """

    def __init__(
        self, lines: Iterable[Line], *, running: Mapping[int, int], served: Mapping[int, datetime]
    ) -> None:
        self._running = dict(running)
        self._served = dict(served)
        self._of: dict[tuple[int, int], list[tuple[datetime, str, Line]]] = {}
        for line in lines:
            entry = (line.first_at, line.key, line)
            self._of.setdefault((line.priority, line.need.tenant_id), []).append(entry)
        for waiting in self._of.values():
            heapify(waiting)
        self._order = [self._place(*who) for who in self._of]
        heapify(self._order)

    def next(self) -> Line | None:
        """The line whose oldest job is next; None where nothing waits any more. Asking again gives the same."""
        while self._order:
            found = self._order[0]
            priority, tenant = -found[0], found[-1]
            if not self._of[priority, tenant]:
                heappop(self._order)
                continue
            # A place only ever moves back: what has happened since it was put there is looked at when it comes up.
            actual = self._place(priority, tenant)
            if actual == found:
                return self._of[priority, tenant][0][2]
            heapreplace(self._order, actual)
        return None

    def given(self, line: Line, *, at: datetime, next_at: datetime | None) -> None:
        """Its oldest job was given a worker; next_at: since when the following one has waited, None: there is none."""
        tenant = line.need.tenant_id
        self._running[tenant] = self._running.get(tenant, 0) + 1
        self._served[tenant] = at
        self.moved(line, next_at=next_at)

    def moved(self, line: Line, *, next_at: datetime | None) -> None:
        """Its oldest job is not there any more, and nobody was served."""
        self.over(line)
        if next_at is not None:
            entry = (next_at, line.key, replace(line, first_at=next_at))
            heappush(self._of[line.priority, line.need.tenant_id], entry)

    def over(self, line: Line) -> None:
        """None of its jobs can be placed now, or there are none."""
        heappop(self._of[line.priority, line.need.tenant_id])

    def _place(self, priority: int, tenant: int) -> tuple[int, int, datetime, datetime, int]:
        first_at = self._of[priority, tenant][0][0]
        served_at = self._served.get(tenant, LONG_AGO)
        return (-priority, self._running.get(tenant, 0), served_at, first_at, tenant)
