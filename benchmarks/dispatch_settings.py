"""The settings of an end-to-end installation, and a clock that is read whenever a doorbell is about to be rung: the first moment after a commit."""

from __future__ import annotations

import os
import time
from pathlib import Path

from django.apps import AppConfig

from tests.e2e.settings import *  # noqa: F403
from tests.e2e.settings import DATA_DIR, INSTALLED_APPS

STAMPS = DATA_DIR / "stamps"
INSTALLED_APPS = [*INSTALLED_APPS, "benchmarks.dispatch_settings.Stamps"]


class Stamps(AppConfig):
    """Writes `job <seconds since 1970>` where a job was committed, `dispatch <id> <seconds>` where a dispatch was."""

    name = "benchmarks.dispatch_settings"
    path = str(Path(__file__).parent)

    def ready(self) -> None:
        from core import doorbell
        from pool.services.bell import DISPATCH_TICK

        ring, ring_worker = doorbell._send, doorbell._send_to_worker

        def send(task: str, *more: object) -> None:
            if task == DISPATCH_TICK:
                stamp(f"job {time.time()}")
            ring(task, *more)

        def send_to_worker(worker_id: str, dispatch_id: str) -> None:
            stamp(f"dispatch {dispatch_id} {time.time()}")
            ring_worker(worker_id, dispatch_id)

        doorbell._send, doorbell._send_to_worker = send, send_to_worker


def stamp(line: str) -> None:
    descriptor = os.open(STAMPS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)
