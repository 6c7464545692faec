"""Real processes of an installation that a test makes for itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

WAIT_S = 60.0


def django_environ(data: Path, **more: str) -> dict[str, str]:
    """The environment of a process whose data folder is `data` and whose Redis is the tests' own."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DORMOUSE_DATA_DIR": str(data),
        "REDIS_URL": settings.REDIS_URL,
        "PYTHONUNBUFFERED": "1",
        **more,
    }


@contextmanager
def running(log: Path, env: Mapping[str, str], *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process in the checkout, its output in `log`; ended, if it has not been, at the end of the block."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command], env=dict(env), cwd=settings.CHECKOUT, stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], object], what: str, *, limit_s: float = WAIT_S) -> None:
    """Until it holds; AssertionError after limit_s."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(0.02)
