"""How GPUs are read. A probe that fails or hangs means "unknown", never "idle"."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from agent.probes.nvml import NvmlProbe
from agent.probes.simulated import SimulatedProbe
from agent.probes.smi import SmiProbe
from agent.wire import Gpu

log = logging.getLogger("agent.probes")

DEADLINE_S = 5.0


class Probe(Protocol):
    """Reads all GPUs. `name` is what the logs call it."""

    name: str

    def read(self) -> tuple[Gpu, ...] | None:
        """All GPUs of this machine, or None where this way of asking does not work here (now)."""


class FirstThatWorks:
    """The probes in order, each time from the first: a driver that comes back is used again."""

    name = "auto"

    def __init__(self, *probes: Probe) -> None:
        self._probes = probes
        self._used: str | None = None

    def read(self) -> tuple[Gpu, ...] | None:
        for probe in self._probes:
            gpus = probe.read()
            if gpus is not None:
                if probe.name != self._used:
                    log.info("gpus are read by %s count=%d", probe.name, len(gpus))
                    self._used = probe.name
                return gpus
        if self._used != "":
            log.warning("gpus unknown: none of %s answers", ", ".join(probe.name for probe in self._probes))
            self._used = ""
        return None


class Nothing:
    """No probe wanted: utilisation stays unknown."""

    name = "none"

    def read(self) -> tuple[Gpu, ...] | None:
        return None


class WithDeadline:
    """Runs a probe in a thread of its own. A driver that hangs costs one thread, and readings stay unknown until it answers.

    Nothing can end a call into a hung driver, not even SIGKILL while the kernel waits; so the call is left
    alone and no second one is made beside it.
    """

    def __init__(self, probe: Probe, *, deadline_s: float = DEADLINE_S) -> None:
        self._probe = probe
        self._deadline_s = deadline_s
        self._answers: queue.SimpleQueue[tuple[Gpu, ...] | None] = queue.SimpleQueue()
        self._asked = threading.Semaphore(0)
        self._pending = False
        threading.Thread(target=self._serve, name="probe", daemon=True).start()

    def read(self) -> tuple[Gpu, ...]:
        """All GPUs; empty where they are unknown. Returns within the deadline."""
        if not self._pending:
            self._pending = True
            self._asked.release()
        try:
            gpus = self._answers.get(timeout=self._deadline_s)
        except queue.Empty:
            log.warning("gpus unknown: %s gave no answer within %.1f s", self._probe.name, self._deadline_s)
            return ()
        self._pending = False
        return gpus or ()

    def _serve(self) -> None:
        while True:
            self._asked.acquire()
            gpus: tuple[Gpu, ...] | None = None
            try:
                gpus = self._probe.read()
            except Exception:
                log.exception("probe=%s failed", self._probe.name)
            self._answers.put(gpus)


def probe_for(word: str, *, state_dir: Path, is_working: Callable[[], bool]) -> WithDeadline:
    """The probe of `--probe`. is_working: does a job's child run here? (the simulated GPU is busy then)"""
    probe: Probe
    match word:
        case "nvml":
            probe = NvmlProbe()
        case "nvidia-smi":
            probe = SmiProbe()
        case "simulated":
            probe = SimulatedProbe(state_dir, is_working=is_working)
        case "none":
            probe = Nothing()
        case _:
            probe = FirstThatWorks(NvmlProbe(), SmiProbe())
    return WithDeadline(probe)


def highest_util(gpus: tuple[Gpu, ...]) -> float | None:
    """The busiest GPU in percent. Unknown if any is unknown: the one that cannot be seen may be the one at work."""
    utils = [gpu.util for gpu in gpus]
    known = [util for util in utils if util is not None]
    return max(known) if known and len(known) == len(utils) else None
