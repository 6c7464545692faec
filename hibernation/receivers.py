"""What hibernation does when the pool tells of something. Connected once, by the app's ready()."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction

from hibernation.chains.subject import nudge_instance, nudge_rechecks
from hibernation.services import verdicts
from pool import signals
from pool.models import Dispatch, Sample, Worker


def on_samples(sender: Any, samples: list[Sample], now: datetime, **_: Any) -> None:
    verdicts.samples_seen(samples, now=now)
    worker_ids = {sample.worker_id for sample in samples}
    transaction.on_commit(lambda: nudge_rechecks(worker_ids), robust=True)


def on_dispatch(sender: Any, dispatch: Dispatch, now: datetime, **_: Any) -> None:
    if dispatch.worker.instance_ref:
        verdicts.activity_seen(dispatch.worker_id, now=now)
        _nudge(dispatch.worker)


def on_worker(sender: Any, worker: Worker, now: datetime, **_: Any) -> None:
    # Workers of the shared pool have no instance, and may come and go by the thousand.
    if worker.instance_ref:
        verdicts.judge_soon(worker.pk, now=now)
        _nudge(worker)


def _nudge(worker: Worker) -> None:
    """A step of its instance's chain may wait for exactly this. After the commit, as above: a running step holds the
    chain's row and asks for the worker's and the dispatch's, so that taking them here the other way round could lock
    both up."""
    instance_ref = worker.instance_ref
    transaction.on_commit(lambda: nudge_instance(instance_ref), robust=True)


def connect() -> None:
    for signal, receiver in (
        (signals.samples_stored, on_samples),
        (signals.dispatch_finished, on_dispatch),
        (signals.worker_online, on_worker),
        (signals.worker_away, on_worker),
    ):
        signal.connect(receiver, dispatch_uid=f"hibernation.{receiver.__name__}")
