"""What watching the pool costs: history of use, sources of alerts, the check itself, late workers. Prints its table.

    nice .venv/bin/python -m benchmarks.watching [--postgres] [--workers 10000] [--jobs 100000]

A database and a Valkey of its own, thrown away afterwards. Milliseconds; each figure is the median of several runs
unless it says otherwise.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--postgres", action="store_true", help="on a PostgreSQL of its own instead of SQLite"
    )
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=100_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dormouse-bench-"))
    from tests.servers import postgres, valkey

    broker = valkey.start(folder / "valkey")
    database = postgres.start() if options.postgres else None
    if options.postgres and database is None:
        sys.exit("no PostgreSQL on this machine")
    os.environ.update(
        DORMOUSE_DATA_DIR=str(folder / "data"), REDIS_URL=broker.url, DJANGO_SETTINGS_MODULE="config.settings"
    )
    if database is not None:
        os.environ["DATABASE_URL"] = database.url
    (folder / "data").mkdir()
    try:
        import logging

        import django

        django.setup()
        logging.disable(logging.CRITICAL)
        run(options.workers, options.jobs, "PostgreSQL" if database else "SQLite")
    finally:
        broker.stop()
        if database is not None:
            database.stop()
        shutil.rmtree(folder, ignore_errors=True)


def run(count: int, jobs: int, database: str) -> None:
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.utils import timezone

    from core.alerts import causes
    from core.alerts.checking import source_check
    from core.models import Alert, TickRun
    from pool.models import Job, Sample, Session, UtilisationMinute, Worker
    from pool.services import alerting, history, interrogation
    from pool.services.accounts import account_create
    from pool.services.bell import DISPATCH_TICK
    from pool.states import WorkerState

    call_command("migrate", verbosity=0)
    now = timezone.now()
    print(
        f"{database}, {count:,} workers, {jobs:,} queued jobs, Python {platform.python_version()}, {os.cpu_count()} cores"
    )
    owner = User.objects.create_user("bench")
    account = account_create(owner=owner, kind="colab", label="bench")
    Worker.objects.bulk_create(
        (
            Worker(account=account, name=f"w{n}", epoch=1, state=WorkerState.ONLINE, state_since=now)
            for n in range(count)
        ),
        batch_size=2_000,
    )
    Session.objects.bulk_create(
        (Session(worker=worker, epoch=1, started_at=now, runtime_s=3600) for worker in Worker.objects.all()),
        batch_size=2_000,
    )
    ids = list(Worker.objects.order_by("pk").values_list("pk", flat=True))

    def readings(at: object, each: int = 1) -> None:
        Sample.objects.bulk_create(
            (
                Sample(worker_id=pk, epoch=1, at=at, gpu_util=n % 100, readings={"cpu_util": 3.0})
                for n in range(each)
                for pk in ids
            ),
            batch_size=2_000,
        )

    readings(now - timedelta(hours=30), each=2)
    history.utilisation_add(limit=10**9)
    taken = []
    for step in range(RUNS):
        readings(now - timedelta(seconds=30 * (RUNS - step)))
        taken.append(timed(history.utilisation_add))
    line(f"add {count:,} readings to minutes and hours", taken)

    batches: list[float] = []
    with each_delete(batches):
        whole = timed(lambda: history.history_keep(now=now))
    line(f"let go {2 * count:,} readings, the whole run", [whole])
    line(f"  a batch of {history.BATCH:,}: median", batches)
    line("  the longest batch", [max(batches)])

    TickRun.objects.update_or_create(
        name=DISPATCH_TICK, defaults={"started_at": now, "resumed_at": now - timedelta(days=1)}
    )
    Job.objects.bulk_create(
        (
            Job(owner=owner, name=f"j{n}", command=["true"], state="queued", state_since=now - timedelta(hours=2), reason_code="none_online", reason_params={"workers": 1})
            for n in range(jobs)
        ),
        batch_size=2_000,
    )  # fmt: skip
    line("look at quotas", [timed(lambda: list(alerting.quotas_near(now))) for _ in range(RUNS)])
    line("look at the queue", [timed(lambda: list(alerting.queue_stuck(now))) for _ in range(RUNS)])

    Worker.objects.update(state=WorkerState.SUSPECT, due_at=now, last_seen_at=now - timedelta(seconds=70))
    line("find who is late, all are", [timed(lambda: interrogation.late(now=now)) for _ in range(RUNS)])
    line(f"ask {interrogation.AT_ONCE} of them", [timed(lambda: interrogation.interrogations_tick(now=now))])

    Worker.objects.update(
        state=WorkerState.LOST,
        due_at=None,
        reason_code="posts_missing",
        reason_params={"silent_s": 70, "interval_s": 30},
    )
    source = {one.name: one for one in causes.sources()}["pool.workers"]
    line(
        "open 200 alerts, all workers are lost",
        [timed(lambda: source_check(source, now=now)) for _ in range(3)],
    )
    while source_check(source, now=now):
        pass
    assert Alert.objects.count() == count and UtilisationMinute.objects.exists()
    line(
        f"check with {count:,} alerts that stand",
        [timed(lambda: source_check(source, now=now)) for _ in range(RUNS)],
    )
    Worker.objects.update(state=WorkerState.ONLINE)
    line("resolve 200 alerts", [timed(lambda: source_check(source, now=now)) for _ in range(3)])


def timed(do: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    do()
    return 1000 * (time.perf_counter() - began)


@contextmanager
def each_delete(into: list[float]) -> Iterator[None]:
    """Note how long each DELETE takes: on SQLite that is how long everybody else waits."""
    from django.db import connection

    def note(execute: Callable[..., object], sql: str, params: object, many: bool, context: object) -> object:
        began = time.perf_counter()
        try:
            return execute(sql, params, many, context)
        finally:
            if sql.startswith("DELETE"):
                into.append(1000 * (time.perf_counter() - began))

    with connection.execute_wrapper(note):
        yield


def line(what: str, milliseconds: list[float]) -> None:
    print(f"  {what:<56}{statistics.median(milliseconds):>10.1f} ms")


if __name__ == "__main__":
    main()
