"""The matrix: where a worker or an agent is killed during one hibernation and one wake of a fresh instance."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field

from tests.chaos.points import Points
from tests.e2e import workspaces
from tests.e2e.installation import Installation
from tests.e2e.rented import Rented, nothing_was_risked
from tests.e2e.waiting import eventually

EVERYWHERE = ("claimed", "done", "settled")
DURING = {
    "hibernate": {
        "drain": ("held-1",),
        "snapshot": ("unrung", "held-1"),
        "verify": ("read", "verified"),
        "recheck": ("looked",),
        "destroy": ("held-1", "destroyed"),
        "confirm": ("gone",),
    },
    "wake": {
        "reserve": ("held-1",),
        "rent": ("held-1", "held-2", "created", "held-3"),
        "boot": ("held-1",),
        "restore": ("unrung", "held-1"),
        "resume": ("held-1", "unrung", "held-2"),
    },
}
AGENT = {
    "hibernate": (
        "snapshot:begun",
        "snapshot:some",
        "snapshot:uploaded",
        "snapshot:committed",
        "snapshot:reported",
    ),
    "wake": ("restore:begun", "restore:some", "restore:placed", "restore:noted", "restore:reported"),
}
CHILD_ALONE = {
    "hibernate": ("destroy:destroyed-child",),
    "wake": ("rent:created-child", "restore:claimed-child"),
}
ENDS_WITHIN_S = 150.0


def points_of(kind: str) -> list[str]:
    """`worker <step>:<point>` and `agent <what>:<point>`, in the order of the steps."""
    steps = DURING[kind].items()
    worker = [
        f"{step}:{point}" for step, during in steps for point in (EVERYWHERE[0], *during, *EVERYWHERE[1:])
    ]
    return [
        *(f"worker {point}" for point in (*worker, *CHILD_ALONE[kind])),
        *(f"agent {point}" for point in AGENT[kind]),
    ]


def pairs() -> list[tuple[str, str]]:
    """Each instance sleeps once and wakes once: a point of each, so that every point has its turn."""
    return list(itertools.zip_longest(points_of("hibernate"), points_of("wake"), fillvalue=""))


class Missed(Exception):
    """The worker died of somebody else's point a moment before it came to its own: the case has to be done again."""


@dataclass
class Line:
    """One row of the table."""

    kind: str
    point: str
    outcome: str
    seconds: float


@dataclass
class Table:
    """One line for each point; a case that was done again has the last word."""

    _lines: dict[tuple[str, str], Line] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        self._lines[line.kind, line.point] = line

    @property
    def lines(self) -> list[Line]:
        return list(self._lines.values())

    def show(self) -> None:
        width = max(len(line.point) for line in self.lines)
        print(f"\n{'chain':<10} {'killed at':<{width}}  {'outcome':<60} {'s':>5}")
        for kind in ("hibernate", "wake"):
            order = {point: index for index, point in enumerate(points_of(kind))}
            for line in sorted(
                (one for one in self.lines if one.kind == kind), key=lambda one: order[one.point]
            ):
                print(f"{line.kind:<10} {line.point:<{width}}  {line.outcome:<60} {line.seconds:5.1f}")


class Case:
    """One instance, from its first box to its end."""

    def __init__(
        self, installation: Installation, *, account: str, name: str, seed: int, table: Table
    ) -> None:
        self.installation = installation
        self.points = Points(installation.data)
        self.table = table
        self.seed = seed
        self.woken = installation.folder / f"woken-{name}"
        self.rented = Rented.rent(
            installation, account=account, name=name, on_wake=f"echo woken >> {self.woken}"
        )

    def run(self, asleep_at: str, awake_at: str) -> None:
        """Raises AssertionError where anything is not exactly as it must be."""
        self.until("running")
        before = self.rented.fill(seed=self.seed, bytes_more=1_000_000)
        self.woken.unlink(missing_ok=True)
        if asleep_at:
            self.arm("hibernate", asleep_at)
        began_s = time.monotonic()
        self.rented.hibernate()
        self.until("hibernated")
        self.note("hibernate", asleep_at, began_s, self.asleep())
        if awake_at:
            self.arm("wake", awake_at)
        began_s = time.monotonic()
        answer = self.rented.wake()
        assert answer.status == 202, answer
        self.until("running")
        self.note("wake", awake_at, began_s, self.awake(before))

    def asleep(self) -> str:
        """One verified generation and one destroy of one box."""
        nothing_was_risked(self.rented)
        said = self.rented.host_said()
        states = [row["state"] for row in self.rented.snapshots()]
        assert states.count("verified") == 1, states
        assert set(states) <= {"verified", "failed"}, states
        assert said == {"rented": 1, "destroyed": 1, "gone": 1}, said
        assert self.chain_ended("hibernate") == "succeeded"
        return f"hibernated; 1 generation verified, 1 destroy{self.spent(states)}"

    def awake(self, before: workspaces.Looked) -> str:
        """One create, every byte in place, what starts on wake started once."""
        nothing_was_risked(self.rented)
        said = self.rented.host_said()
        assert said == {"rented": 2, "destroyed": 1, "gone": 1}, said
        assert self.rented.differences(before) == []
        assert self.chain_ended("wake") == "succeeded"
        woken = self.woken.read_text() if self.woken.exists() else ""
        assert woken == "woken\n", woken
        restores = self.rented.dispatches("restore")
        assert [row["state"] for row in restores].count("succeeded") == 1, restores
        return f"running; 1 create, {len(before.entries)} entries identical"

    def spent(self, states: list[str]) -> str:
        failed = states.count("failed")
        return f", {failed} generation given up" if failed else ""

    def arm(self, kind: str, point: str) -> None:
        self.points.arm(self.name_of(kind, point))

    def name_of(self, kind: str, point: str) -> str:
        who, _, where = point.partition(" ")
        return f"{self.rented.name}:{where}" if who == "agent" else f"{self.rented.id}:{kind}:{where}"

    def note(self, kind: str, point: str, began_s: float, outcome: str) -> None:
        if point:
            if not self.points.is_passed(self.name_of(kind, point)):
                raise Missed(f"{kind} never came to {point}")
            self.table.add(Line(kind, point, outcome, time.monotonic() - began_s))

    def chain_ended(self, kind: str) -> str:
        (chain,) = self.installation.rows.all(
            "SELECT state FROM core_chain WHERE subject_id = ? AND kind = ?", self.rented.id, kind
        )
        return str(chain["state"])

    def until(self, state: str) -> None:
        """By the rows: dozens of instances that ask the API twenty times a second would be all that it did."""

        def story() -> str:
            return f"{self.rented.name} {state}; {self.row()}; chain {self.rented.chain()}"

        eventually(lambda: self.row()["state"] == state, what=story, within_s=ENDS_WITHIN_S)

    def row(self) -> dict[str, object]:
        return self.installation.rows.one(
            "SELECT state, reason_code, reason_params FROM hibernation_instance WHERE id = ?", self.rented.id
        )

    def give_up(self) -> None:
        self.rented.client.call("DELETE", f"/api/instances/{self.rented.id}", discard="workspace")
