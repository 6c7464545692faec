"""What the pool costs: intake of status posts, selection, dispatch, sweeps. Prints its table.

    nice .venv/bin/python -m benchmarks.pool [--postgres] [--workers 100000] [--jobs 100000]

A database and a Valkey of its own, thrown away afterwards. Each figure is the median of several runs after one that
does not count; "queries" are those of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--postgres", action="store_true", help="on a PostgreSQL of its own instead of SQLite"
    )
    parser.add_argument("--posts", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=100_000)
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
        Bench(options).run("PostgreSQL" if database else "SQLite")
    finally:
        broker.stop()
        if database is not None:
            database.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        from django.core.management import call_command
        from django.utils import timezone

        call_command("migrate", verbosity=0)
        self.options = options
        self.now = timezone.now()

    def run(self, database: str) -> None:
        print(f"{database}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        print(f"{'median of each, in ms':<66}{'wall':>10}{'own CPU':>10}{'queries':>9}")
        self.make_people()
        self.selection_of_fourteen()
        self.make_workers(self.options.posts, online=True)
        self.intake()
        self.selection_of_many()
        self.make_workers(self.options.workers - self.options.posts, online=False)
        self.sweeps()

    # -- rows ---------------------------------------------------------------------------------------

    def make_people(self) -> None:
        from django.contrib.auth.models import User

        from pool.services.accounts import account_create

        self.owner = User.objects.create_user("owner")
        self.account = account_create(owner=self.owner, kind="local", label="bench")
        self.kaggle = account_create(owner=self.owner, kind="kaggle", label="bench")

    def make_workers(self, how_many: int, *, online: bool) -> None:
        from pool.models import Session, Worker
        from pool.services.workers import overdue_at

        workers = [
            Worker(
                account=self.account if number % 2 else self.kaggle,
                name=f"{online}-{number}",
                epoch=1,
                state="online" if online else "offline",
                state_since=self.now if online else self.now - timedelta(days=1),
                secret_sha256="x" * 64,
                gpu_mem_bytes=16 * 1024**3,
                last_seen_at=self.now,
                due_at=overdue_at(self.now, check_interval_s=30) if online else None,
            )
            for number in range(how_many)
        ]
        Worker.objects.bulk_create(workers, batch_size=5_000)
        Session.objects.bulk_create(
            [Session(worker=one, epoch=1, started_at=self.now) for one in workers], batch_size=5_000
        )
        if online:
            self.online = workers
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")

    # -- what is measured -----------------------------------------------------------------------------

    def selection_of_fourteen(self) -> None:
        from pool.quota import DEFAULTS, reading
        from pool.select import Candidate, Need, select

        pool = [
            Candidate(
                worker_id=f"w{number}",
                name=f"w{number}",
                kind="colab" if number % 2 else "kaggle",
                state="online",
                reading=reading(
                    DEFAULTS["colab" if number % 2 else "kaggle"],
                    session_runtime_h=number / 2,
                    week_used_h=number,
                ),
            )
            for number in range(14)
        ]
        need = Need(tenant_id=1)
        self.show(
            "selection: 1,000 choices among 14 workers, pure",
            lambda: [select(pool, need, chosen_at={}) for _ in range(1_000)],
        )

    def intake(self) -> None:
        from core import broker
        from gateway import keys
        from pool.services.intake import intake_drain

        runtime_h = 0.0

        def post() -> None:
            nonlocal runtime_h
            runtime_h += 1 / 120
            pipeline = broker.client().pipeline(transaction=False)
            for number, worker in enumerate(self.online):
                body = {
                    "worker_id": worker.pk,
                    "epoch": 1,
                    "session_runtime_hours": runtime_h,
                    "gpu_util": number % 100,
                    "status": "idle",
                    "gpus": [{"index": 0, "name": "Tesla T4", "util": 2.0, "mem_total_bytes": 16 * 1024**3}],
                    "cpu_util": 3.0,
                    "sessions": {"ssh": 0},
                    "jobs": [],
                }
                pipeline.xadd(keys.STATUS_STREAM, {"body": json.dumps(body), "at": f"{time.time():.3f}"})
            pipeline.execute()

        taken = self.show(
            f"intake: {len(self.online):,} status posts, all workers at once", intake_drain, before=post
        )
        assert taken == len(self.online), taken

    def selection_of_many(self) -> None:
        from pool.models import Dispatch, Job
        from pool.services.jobs import jobs_dispatch

        jobs = [
            Job(
                owner=self.owner,
                name="j",
                command=["true"],
                state="queued",
                queued_at=self.now + timedelta(milliseconds=number),
            )
            for number in range(self.options.jobs)
        ]
        Job.objects.bulk_create(jobs, batch_size=5_000)
        given = 0

        def only(how_many: int) -> Callable[[], None]:
            """Leave so many workers a free slot."""

            def free() -> None:
                from pool.models import Worker

                Dispatch.objects.all().delete()
                Job.objects.filter(state="dispatched").update(state="queued")
                Worker.objects.filter(state="online").update(slots=0, taken=0)
                some = [one.pk for one in self.online[1::2][:how_many]]  # the local ones: no week to use up
                Worker.objects.filter(pk__in=some).update(slots=1)

            return free

        label = f"{len(self.online):,} workers online, {self.options.jobs:,} jobs queued"
        self.show(f"dispatch: nothing free; {label}", jobs_dispatch, before=only(0), runs=3)
        for free in (1, 100):
            given = self.show(f"dispatch: {free} free; {label}", jobs_dispatch, before=only(free), runs=3)
            assert given == free, (given, free)
        only(0)()
        Job.objects.all().delete()
        self.show("dispatch: nothing queued", jobs_dispatch)

    def sweeps(self) -> None:
        from django.utils import timezone

        from core import broker
        from core.models import TickRun
        from gateway import keys
        from pool.models import Worker
        from pool.services.liveness import workers_check
        from pool.services.publish import PUBLISHED, publish_all

        total = Worker.objects.count()
        gateway = broker.client().pubsub()
        gateway.subscribe(keys.RINGS)  # silence counts only while a gateway listens

        def quiet() -> None:
            publish_all(now=timezone.now())

        Worker.objects.filter(state="online").update(
            last_seen_at=timezone.now(), due_at=timezone.now() + timedelta(hours=1)
        )
        self.show(f"workers tick: nothing overdue among {total:,} workers", workers_check, before=quiet)

        def lose() -> None:
            quiet()
            TickRun.objects.update(resumed_at=timezone.now() - timedelta(hours=1))
            some = [one.pk for one in self.online[:50]]
            Worker.objects.filter(pk__in=some).update(
                state="online",
                due_at=timezone.now() - timedelta(seconds=1),
                last_seen_at=timezone.now() - timedelta(seconds=50),
            )

        self.show(f"workers tick: 50 of {total:,} become suspect", workers_check, before=lose)
        self.show(
            f"publication of gate and orders of {len(self.online):,} workers",
            lambda: publish_all(now=timezone.now()),
            before=lambda: broker.client().delete(PUBLISHED),
        )

    def show(
        self,
        what: str,
        do: Callable[[], Any],
        *,
        before: Callable[[], object] = lambda: None,
        runs: int = RUNS,
    ) -> Any:
        from django.db import connection
        from django.test.utils import CaptureQueriesContext

        before()
        with CaptureQueriesContext(connection) as queries:
            answer = do()
        walls, cpus = [], []
        for _ in range(runs):
            before()
            wall, cpu = time.perf_counter(), time.process_time()
            do()
            walls.append(1000 * (time.perf_counter() - wall))
            cpus.append(1000 * (time.process_time() - cpu))
        wall_ms, cpu_ms = statistics.median(walls), statistics.median(cpus)
        print(f"{what:<66}{wall_ms:>10.1f}{cpu_ms:>10.1f}{len(queries):>9}", flush=True)
        return answer


if __name__ == "__main__":
    main()
