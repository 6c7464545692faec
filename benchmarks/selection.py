"""What it costs to choose a worker, to say why jobs wait, and what two dispatchers at once do. Prints its table.

    nice .venv/bin/python -m benchmarks.selection [--postgres] [--workers 10000] [--jobs 100000] [--race 10000]

A database and a Valkey of its own, thrown away afterwards. Each figure is the median of several runs after one that
does not count; "queries" are those of one run.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

RUNS = 7
GIB = 1024**3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--postgres", action="store_true", help="on a PostgreSQL of its own instead of SQLite"
    )
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--race", type=int, default=10_000, help="jobs that two dispatchers race for")
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
        self.dice = random.Random(1)

    def run(self, database: str) -> None:
        workers, jobs = self.options.workers, self.options.jobs
        print(f"{database}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        print(f"{workers:,} workers online, {jobs:,} jobs queued by 100 people in 300 lines")
        print(f"{'median of each, in ms':<70}{'wall':>9}{'own CPU':>9}{'queries':>9}")
        self.make()
        self.decisions()
        self.runs()
        self.race()

    def make(self) -> None:
        from django.contrib.auth.models import User

        from pool.models import Job, Worker
        from pool.services.accounts import account_create

        self.people = [User.objects.create_user(f"person-{number}") for number in range(100)]
        accounts = [
            account_create(owner=self.people[0], kind=kind, label=f"{kind}-{number}")
            for kind in ("colab", "kaggle", "local")
            for number in range(20)
        ]
        ends = [self.now + timedelta(hours=12 * self.dice.random()) for _ in range(self.options.workers)]
        self.workers = Worker.objects.bulk_create(
            [
                Worker(
                    account=accounts[number % len(accounts)],
                    name=f"w{number}",
                    epoch=1,
                    state="online",
                    gpu_mem_bytes=(16 if number % 4 else 80) * GIB,
                    used_percent=round(80 * self.dice.random(), 2),
                    safe_until=ends_at - timedelta(minutes=30),
                    ends_at=ends_at,
                    labels="|disk=nvme|" if number % 10 == 0 else "",
                )
                for number, ends_at in enumerate(ends)
            ],
            batch_size=5_000,
        )
        Job.objects.bulk_create(
            [
                Job(
                    owner=self.people[number % 100],
                    name="j",
                    command=["true"],
                    state="queued",
                    queued_at=self.now - timedelta(seconds=self.options.jobs - number),
                    gpu_mem_bytes=(number // 100 % 3) * 8 * GIB,
                )
                for number in range(self.options.jobs)
            ],
            batch_size=5_000,
        )
        self.analyze()

    def analyze(self) -> None:
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")

    # -- one decision ---------------------------------------------------------------------------------

    def decisions(self) -> None:
        from pool.models import Choice, Worker
        from pool.select import Need
        from pool.services.choosing import workers_in_turn

        def ask(*, limit: int = 1, few: bool = False, **fields: Any) -> Callable[[], object]:
            need = Need(tenant_id=self.people[0].pk, **fields)
            return lambda: workers_in_turn(need, now=self.now, limit=limit, few=few)

        every = f"{self.options.workers:,}"
        self.show(f"choose: {every} open", ask())
        self.show(f"choose: {every} open, the next 64 in turn", ask(limit=64))
        self.show(
            f"choose: {every} open, provider, 40 GiB, 3 h, a label",
            ask(provider="colab", gpu_mem_bytes=40 * GIB, expected_hours=3, labels="|disk=nvme|"),
        )
        self.show(f"choose: {every} open, none of them fits", ask(gpu_mem_bytes=400 * GIB))
        Choice.objects.bulk_create(
            [
                Choice(
                    tenant=self.people[0],
                    worker=one,
                    chosen_at=self.now - timedelta(hours=self.dice.random()),
                )
                for one in self.workers
            ],
            batch_size=5_000,
        )
        self.analyze()
        self.show(f"choose: {every} open, all of them given to this tenant before", ask())
        self.show("choose: the same, the next 64 in turn", ask(limit=64))
        Worker.objects.exclude(pk__in=[one.pk for one in self.workers[:100]]).update(taken=1)
        self.show(f"choose: 100 of {every} open, all given before", ask(few=True))
        Worker.objects.update(taken=1)
        self.show(f"choose: none of {every} open", ask(few=True))

    # -- runs of the dispatcher -----------------------------------------------------------------------

    def runs(self) -> None:
        from pool.models import Choice, Dispatch, Job, Waiting, Worker
        from pool.services.jobs import jobs_dispatch

        Choice.objects.all().delete()

        def free(how_many: int) -> Callable[[], None]:
            def before() -> None:
                Dispatch.objects.all().delete()
                Job.objects.filter(state="dispatched").update(state="queued")
                Worker.objects.update(taken=1)
                some = [one.pk for one in self.workers if one.safe_until > self.now][:how_many]
                Worker.objects.filter(pk__in=some).update(taken=0)

            return before

        def silent() -> None:
            free(0)()
            Waiting.objects.all().delete()

        def dispatch() -> int:
            return jobs_dispatch(now=self.now)

        self.show("run: nothing free, all 300 lines are told why", dispatch, before=silent, runs=3)
        self.show("run: nothing free, nothing new to tell", dispatch, before=free(0), runs=3)
        safe = sum(one.safe_until > self.now for one in self.workers)
        for how_many in sorted({min(number, safe) for number in (1, 100, 1_000)}):
            given = self.show(
                f"run: {how_many:,} jobs given", dispatch, before=free(how_many), runs=3, per=how_many
            )
            assert given == how_many, (given, how_many)
        most = min(1_000, safe)
        every = free(len(self.workers))
        self.show(f"run: {most:,} jobs given, all workers open", dispatch, before=every, runs=3, per=most)
        free(0)()

    # -- two dispatchers ------------------------------------------------------------------------------

    def race(self) -> None:
        from django.db import connection
        from django.db.models import Count

        from pool.models import Dispatch, Job, Worker

        jobs = self.options.race
        Dispatch.objects.all().delete()
        Job.objects.exclude(
            pk__in=[pk for (pk,) in Job.objects.order_by("queued_at").values_list("pk")[:jobs]]
        ).delete()
        Job.objects.update(state="queued", attempt=0)
        Worker.objects.update(taken=0, slots=1, gpu_mem_bytes=16 * GIB, safe_until=None, ends_at=None)
        connection.close()
        begun = time.perf_counter()
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", RACER], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
            )
            for _ in range(2)
        ]
        gave = [int(racer.communicate()[0].split()[-1]) for racer in racers]
        wall_s = time.perf_counter() - begun
        slots = Dispatch.objects.values("worker", "slot").annotate(n=Count("pk")).filter(n__gt=1).count()
        twice = Dispatch.objects.values("job").annotate(n=Count("pk")).filter(n__gt=1).count()
        started = Job.objects.filter(state="dispatched", attempt=1).count()
        print(
            f"race: two dispatchers gave {gave[0]:,} + {gave[1]:,} of {jobs:,} jobs in {wall_s:.1f} s: "
            f"{started:,} started once, {twice} twice, {slots} slots given twice"
        )
        assert (sum(gave), started, twice, slots) == (min(jobs, len(self.workers)), sum(gave), 0, 0)

    def show(
        self,
        what: str,
        do: Callable[[], Any],
        *,
        before: Callable[[], object] = lambda: None,
        runs: int = RUNS,
        per: int = 1,
    ) -> Any:
        from django.db import connection

        queries = 0

        def counted(execute: Callable[..., Any], *arguments: Any) -> Any:
            nonlocal queries
            queries += 1
            return execute(*arguments)

        before()
        with connection.execute_wrapper(counted):
            answer = do()
        walls, cpus = [], []
        for _ in range(runs):
            before()
            wall, cpu = time.perf_counter(), time.process_time()
            do()
            walls.append(1000 * (time.perf_counter() - wall))
            cpus.append(1000 * (time.process_time() - cpu))
        wall_ms, cpu_ms = statistics.median(walls), statistics.median(cpus)
        each = f"   ({wall_ms / per:.2f} ms, {queries / per:.1f} a job)" if per > 1 else ""
        print(f"{what:<70}{wall_ms:>9.2f}{cpu_ms:>9.2f}{queries:>9,}{each}", flush=True)
        return answer


RACER = """
import logging, django
django.setup()
logging.disable(logging.CRITICAL)
from pool.services.jobs import jobs_dispatch
total = idle = 0
while idle < 2:
    given = jobs_dispatch()
    total += given
    idle = 0 if given else idle + 1
print(total)
"""


if __name__ == "__main__":
    main()
