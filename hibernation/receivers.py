"""What verdicts do when the pool tells of something. Connected once, by the app's ready()."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from hibernation.services import verdicts
from pool import signals
from pool.models import Dispatch, Sample, Worker


def on_samples(sender: Any, samples: list[Sample], now: datetime, **_: Any) -> None:
    verdicts.samples_seen(samples, now=now)
    nudge_rechecks({sample.worker_id for sample in samples})


def on_dispatch(sender: Any, dispatch: Dispatch, now: datetime, **_: Any) -> None:
    verdicts.activity_seen(dispatch.worker_id, now=now)


def on_worker(sender: Any, worker: Worker, now: datetime, **_: Any) -> None:
    verdicts.judge_soon(worker.pk, now=now)


def connect() -> None:
    for signal, receiver in (
        (signals.samples_stored, on_samples),
        (signals.dispatch_finished, on_dispatch),
        (signals.worker_online, on_worker),
        (signals.worker_away, on_worker),
    ):
        signal.connect(receiver, dispatch_uid=f"hibernation.verdicts.{receiver.__name__}")
