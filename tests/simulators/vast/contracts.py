"""One rental as vast.ai has it: its states over time, and what each second and byte of it costs."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulators.vast.catalogue import Machine

MONTH_H = 720
HOUR_S = 3600.0
RUNNING = "running"
NULL = None


@dataclass
class Bill:
    """Seconds and bytes that are paid for. offline time is in neither."""

    gpu_s: float = 0.0
    disk_s: float = 0.0
    upload_bytes: int = 0
    download_bytes: int = 0


@dataclass(kw_only=True)
class Contract:
    """Times are seconds since 1970. plan: the states that are still to come, each with its time.

    shows_at: not listed before. gone_at: destroyed, or died.
    """

    id: int
    tenant: str
    machine: Machine
    offer_id: int
    label: str | None
    disk_gb: float
    image: str
    runtype: str
    onstart: str
    env: dict[str, str]
    container_key: str
    created_at: float
    shows_at: float
    actual: str | None = NULL
    intended: str = RUNNING
    status_msg: str | None = None
    start_date: float = 0.0
    plan: list[tuple[float, str | None]] = field(default_factory=list)
    offline_until: float = 0.0
    running_since: float | None = None
    gone_at: float | None = None
    destroys: int = 0
    bill: Bill = field(default_factory=Bill)
    billed_to: float = 0.0

    @property
    def storage_usd_per_h(self) -> float:
        return self.machine.storage_cost * self.disk_gb / MONTH_H

    @property
    def dph_total(self) -> float:
        return round(self.machine.dph_base + self.storage_usd_per_h, 10)

    @property
    def lives(self) -> bool:
        return self.gone_at is None

    def shown_status(self, now: float) -> str | None:
        return "offline" if now < self.offline_until else self.actual

    def works(self, now: float) -> bool:
        """Whether its processes run."""
        return self.lives and self.actual == RUNNING and now >= self.offline_until

    def advance(self, now: float) -> None:
        """Go through the states that are due, and count what they cost."""
        while self.plan and self.plan[0][0] <= now and self.lives:
            at, actual = self.plan.pop(0)
            self._count(at)
            if actual == RUNNING and self.actual != RUNNING:
                self.running_since = at
                self.status_msg = f"success, running {self.image}/{self.runtype}"
            elif actual != RUNNING:
                self.running_since = None
            self.actual = actual
        self._count(now)

    def go(self, now: float, *states: tuple[float, str | None]) -> None:
        """Forget what was to come; states: (seconds from now, state)."""
        self.advance(now)
        self.plan = [(now + after_s, state) for after_s, state in states]
        self.advance(now)

    def offline(self, now: float, seconds: float) -> None:
        self.advance(now)
        self.offline_until = now + seconds

    def end(self, now: float) -> None:
        self.advance(now)
        self.gone_at = now
        self.plan = []

    def _count(self, until: float) -> None:
        if not self.lives or until <= self.billed_to:
            return
        # Nothing is billed while the host is offline.
        begins = min(until, max(self.billed_to, self.offline_until))
        seconds = until - begins
        self.bill.disk_s += seconds
        if self.actual in (RUNNING, "frozen"):
            self.bill.gpu_s += seconds
        self.billed_to = until

    def invoice(self) -> dict[str, float]:
        """$ by item, as the charges call them; bwu: what the box sent, bwd: what it received."""
        return {
            "gpu": self.bill.gpu_s / HOUR_S * self.machine.dph_base,
            "disk": self.bill.disk_s / HOUR_S * self.storage_usd_per_h,
            "bwu": self.bill.upload_bytes / 1e9 * self.machine.inet_up_cost,
            "bwd": self.bill.download_bytes / 1e9 * self.machine.inet_down_cost,
        }
