"""How the demo speaks: chapters, one line a transition, a progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

BAR_WIDTH = 28


class Teller:
    """Prints what happens. On a terminal the bar moves in place; in a log each tenth of it is a line."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._live = sys.stdout.isatty()
        self._bar_shown = False
        self._last_tenth: tuple[str, int] | None = None

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def chapter(self, title: str) -> None:
        self._end_bar()
        print(f"\n{title}", flush=True)

    def line(self, text: str) -> None:
        self._end_bar()
        print(f"  {self.elapsed_s:6.1f} s  {text}", flush=True)

    def transition(self, *, name: str, state: str, reason: str, usd_per_h: float) -> None:
        self.line(f"{name:<12} {state:<13} ${usd_per_h:.2f}/h  {reason}")

    def failed(self, text: str) -> None:
        self._end_bar()
        print(f"\n  {self.elapsed_s:6.1f} s  FAILED: {text}", file=sys.stderr, flush=True)

    def progress(self, facts: Mapping[str, Any]) -> None:
        """facts: phase, bytes_done, bytes_total, bytes_per_s, left_s, as the API gives them for a running chain."""
        total = int(facts.get("bytes_total") or 0)
        if not total:
            return
        done = min(int(facts.get("bytes_done") or 0), total)
        tenth = (str(facts.get("phase")), 10 * done // total)
        if not self._live and tenth == self._last_tenth:
            return
        self._last_tenth = tenth
        filled = BAR_WIDTH * done // total
        left_s = facts.get("left_s")
        text = (
            f"            {facts.get('phase', ''):<11} [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] "
            f"{100 * done // total:3d} %  {done / 1e6:7.1f}/{total / 1e6:.1f} MB"
        )
        if facts.get("bytes_per_s"):
            text += f"  {facts['bytes_per_s'] / 1e6:.0f} MB/s"
        if left_s is not None:
            text += f"  {left_s:.0f} s left"
        if self._live:
            print(f"\r\x1b[2K{text}", end="", flush=True)
            self._bar_shown = True
        else:
            print(text, flush=True)

    def _end_bar(self) -> None:
        self._last_tenth = None
        if self._bar_shown:
            print(flush=True)
            self._bar_shown = False
