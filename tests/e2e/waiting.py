"""Waiting for what real processes do. A test waits until something is so, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_EVERY_S = 0.05


def eventually(look: Callable[[], T], *, what: str | Callable[[], str], within_s: float = 60.0) -> T:
    """The first true thing that `look` returns; AssertionError, saying what was waited for, if none comes in time."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what() if callable(what) else what}")
        time.sleep(LOOK_EVERY_S)
