"""GPUs through the nvidia-smi program, where the library cannot be used."""

from __future__ import annotations

import contextlib
import csv
import shutil
import subprocess

from agent.wire import Gpu

MIB = 1 << 20
ANSWER_WITHIN_S = 4.0
_FIELDS = ("index", "name", "utilization.gpu", "memory.used", "memory.total", "temperature.gpu")


class SmiProbe:
    """Runs nvidia-smi once per reading. Not there, failed or too slow: None."""

    name = "nvidia-smi"

    def __init__(self, *, answer_within_s: float = ANSWER_WITHIN_S) -> None:
        self._answer_within_s = answer_within_s

    def read(self) -> tuple[Gpu, ...] | None:
        program = shutil.which("nvidia-smi")
        if program is None:
            return None
        arguments = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
        with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
            answer = subprocess.run(
                arguments,
                capture_output=True,
                text=True,
                timeout=self._answer_within_s,
                check=True,
                stdin=subprocess.DEVNULL,
            )
            return parse(answer.stdout)
        return None


def parse(text: str) -> tuple[Gpu, ...] | None:
    """The program's CSV, one GPU a line. Raises ValueError where it is something else; None where it lists none."""
    rows = [row for row in csv.reader(text.splitlines(), skipinitialspace=True) if row]
    if any(len(row) != len(_FIELDS) for row in rows):
        raise ValueError("nvidia-smi printed something that is not the table that was asked for")
    return tuple(_gpu(row) for row in rows) or None


def _gpu(row: list[str]) -> Gpu:
    index, name, util, used_mib, total_mib, temp_c = (cell.strip() for cell in row)
    used, total = _number(used_mib), _number(total_mib)
    return Gpu(
        index=int(index),
        name=name,
        util=_number(util),
        mem_used_bytes=None if used is None else int(used * MIB),
        mem_total_bytes=None if total is None else int(total * MIB),
        temp_c=_number(temp_c),
    )


def _number(cell: str) -> float | None:
    """'[N/A]', '[Not Supported]', '[Unknown Error]' are unknown."""
    try:
        return float(cell)
    except ValueError:
        return None
