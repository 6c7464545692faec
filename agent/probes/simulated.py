"""A GPU that is not there, for the local provider and demonstrations."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

from agent.wire import Gpu

log = logging.getLogger("agent.probes")

CONTROL_FILE = "simulated-gpu.json"
BUSY_UTIL = 95.0
MEM_TOTAL_BYTES = 16 << 30


class SimulatedProbe:
    """Busy while a job's child runs, else idle. `simulated-gpu.json` in the state directory overrules it:

    {"name": text, "mem_total_bytes": number, "util": percent at rest or null for unknown, "busy_util": percent
    while a child runs}; every field may be left out. Where it says "util" and no "busy_util", that is what is read.
    """

    name = "simulated"

    def __init__(self, state_dir: Path, *, is_working: Callable[[], bool]) -> None:
        self._path = state_dir / CONTROL_FILE
        self._is_working = is_working

    def read(self) -> tuple[Gpu, ...] | None:
        try:
            control = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            control = {}
        except (OSError, ValueError) as error:
            log.warning("simulated gpu unknown: %s: %s", self._path.name, error)
            return None
        if not isinstance(control, dict):
            log.warning("simulated gpu unknown: %s holds no JSON object", self._path.name)
            return None
        working = self._is_working()
        util = control.get("util", BUSY_UTIL if working else 0.0)
        if working and "busy_util" in control:
            util = control["busy_util"]
        total = control.get("mem_total_bytes", MEM_TOTAL_BYTES)
        return (
            Gpu(
                index=0,
                name=str(control.get("name", "Simulated GPU")),
                util=min(100.0, max(0.0, float(util))) if _is_number(util) else None,
                mem_used_bytes=int(total * 0.8) if working and _is_number(total) else 0,
                mem_total_bytes=int(total) if _is_number(total) else None,
            ),
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
