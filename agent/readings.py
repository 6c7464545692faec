"""What this machine is doing, apart from its GPUs: processor, network, disk, people logged in."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_SSH_PORT = "0016"
_ESTABLISHED = "01"


@dataclass(frozen=True, kw_only=True)
class MachineReading:
    """None is unknown, never zero. cpu_util: percent of all cores since the reading before."""

    cpu_util: float | None
    net_bytes_per_s: float | None
    disk_free_bytes: int | None
    ssh_sessions: int | None


class Machine:
    """Rates need two looks: the first is taken when this is made."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk
        self._cpu = _cpu_ticks()
        self._net = _net_bytes()
        self._at_s = time.monotonic()

    def read(self) -> MachineReading:
        cpu, net, at_s = _cpu_ticks(), _net_bytes(), time.monotonic()
        reading = MachineReading(
            cpu_util=_busy_percent(self._cpu, cpu),
            net_bytes_per_s=_rate(self._net, net, at_s - self._at_s),
            disk_free_bytes=self._disk_free_bytes(),
            ssh_sessions=ssh_sessions(),
        )
        self._cpu, self._net, self._at_s = cpu, net, at_s
        return reading

    def _disk_free_bytes(self) -> int | None:
        # The workspace is made by the first restore: until then its nearest folder stands on the same disk.
        for folder in (self._disk, *self._disk.parents):
            try:
                return shutil.disk_usage(folder).free
            except FileNotFoundError:
                continue
            except OSError:
                return None
        return None


def ssh_sessions(proc: Path = _PROC) -> int | None:
    """Established connections to port 22 of this machine, IPv4 and IPv6; None where the kernel does not show them."""
    count: int | None = None
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / name).read_text(encoding="ascii").splitlines()[1:]
        except (OSError, UnicodeDecodeError):
            continue
        rows = [line.split() for line in lines]
        count = (count or 0) + sum(
            1 for row in rows if len(row) > 3 and row[1].endswith(f":{_SSH_PORT}") and row[3] == _ESTABLISHED
        )
    return count


def _cpu_ticks() -> tuple[int, int] | None:
    """(idle, all) ticks since boot. Waiting for a disk is idle; a guest's time is in its host's user time already."""
    try:
        fields = (_PROC / "stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        ticks = [int(field) for field in fields]
    except (OSError, ValueError):
        return None
    return (ticks[3] + ticks[4], sum(ticks)) if len(ticks) == 8 else None


def _net_bytes() -> int | None:
    """Bytes received and sent by every interface but the loopback."""
    total = 0
    try:
        for line in (_PROC / "net" / "dev").read_text(encoding="ascii").splitlines()[2:]:
            name, _, rest = line.partition(":")
            fields = rest.split()
            if name.strip() != "lo":
                total += int(fields[0]) + int(fields[8])
    except (OSError, ValueError, IndexError):
        return None
    return total


def _busy_percent(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    if before is None or after is None or after[1] <= before[1]:
        return None
    idle_share = (after[0] - before[0]) / (after[1] - before[1])
    return round(min(100.0, max(0.0, 100.0 * (1.0 - idle_share))), 1)


def _rate(before: int | None, after: int | None, seconds: float) -> float | None:
    # An interface that was taken down and up again counts from zero.
    if before is None or after is None or seconds <= 0 or after < before:
        return None
    return round((after - before) / seconds, 1)
