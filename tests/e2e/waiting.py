"""Waiting for what real processes do. A test waits until something is so, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_EVERY_S = 0.05
LOOK_AT_LEAST_EVERY_S = 0.25
LOOK_SHARE = 0.05
"""Of the time that has been waited: whoever asks twenty times a second for a minute is most of what the API does."""


def eventually(look: Callable[[], T], *, what: str | Callable[[], str], within_s: float = 60.0) -> T:
    """The first true thing that `look` returns; AssertionError, saying what was waited for, if none comes in time."""
    began_s = time.monotonic()
    while True:
        found = look()
        if found:
            return found
        waited_s = time.monotonic() - began_s
        if waited_s > within_s:
            raise AssertionError(f"not within {within_s:g} s: {what() if callable(what) else what}")
        time.sleep(min(max(LOOK_EVERY_S, waited_s * LOOK_SHARE), LOOK_AT_LEAST_EVERY_S))
