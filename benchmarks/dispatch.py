"""How long it takes from a commit to the child process on a worker. Prints its table.

    nice .venv/bin/python -m benchmarks.dispatch [--jobs 300]

A whole installation on this machine, idle, with one worker (real agent, HTTPS long poll): job after job, each of which
prints the time of day with `date +%s.%N`. Beside it, in turns, a stock Celery task over direct Redis (prefork, one
process) that starts the same child. `date` itself, from the fork to its answer, is the last line: it is part of every
other one.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from config.env import broker_url
from config.paths import CHECKOUT
from tests.e2e.client import Client
from tests.e2e.installation import Installation
from tests.e2e.waiting import eventually

CLOCK = ["date", "+%s.%N"]
WARM_UP = 10
REPORTED = " reported outcome="


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=300)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dormouse-bench-"))
    installation = Installation(folder, settings="benchmarks.dispatch_settings")
    try:
        installation.start()
        measure(installation, jobs=options.jobs)
    finally:
        installation.stop()
        shutil.rmtree(folder, ignore_errors=True)


def measure(installation: Installation, *, jobs: int) -> None:
    client = installation.client()
    account = client.post("/api/accounts", kind="local", label="benchmark")["id"]
    installation.join(account, "worker")
    eventually(lambda: " listens queue=" in installation.said("worker"), what="the agent listens")
    with bare_celery(installation) as bare:
        for _ in range(WARM_UP):
            ours(installation, client)
            bare.once()
        found = []
        for _ in range(jobs):
            found.append((*ours(installation, client), bare.once(), child_alone()))
    columns = list(zip(*found, strict=True))
    rows = {
        "dispatch committed → child": columns[1],
        "job committed → child": columns[0],
        "bare Celery, direct Redis: sent → child": columns[2],
        "the child alone: fork → date's answer": columns[3],
    }
    show(rows, jobs)


def ours(installation: Installation, client: Client) -> tuple[float, float]:
    """Seconds from the commit of the job, and from that of its dispatch, to the child."""
    stamps = installation.data / "stamps"
    begin = stamps.stat().st_size if stamps.exists() else 0
    reports = installation.said("worker").count(REPORTED)
    job = client.post("/api/jobs", command=CLOCK)["id"]
    # Not by asking the API: the web process would answer us instead of the worker's claim.
    eventually(lambda: installation.said("worker").count(REPORTED) > reports, what="the job is reported")
    ended = client.job_ended(job)
    assert ended and ended["status"] == "succeeded", ended
    at = float(client.log(job))
    dispatch = installation.attempt(job)
    with stamps.open() as file:
        file.seek(begin)
        lines = [line.split() for line in file]
    committed_at = next(float(line[1]) for line in lines if line[0] == "job")
    dispatched_at = next(float(line[2]) for line in lines if line[:2] == ["dispatch", dispatch])
    return at - committed_at, at - dispatched_at


class Bare:
    def __init__(self, out: Path) -> None:
        from benchmarks.dispatch_bare import start

        self._start = start
        self._out = out

    def once(self) -> float:
        begin = self._out.stat().st_size if self._out.exists() else 0
        sent_at = time.time()
        self._start.delay(CLOCK, str(self._out))
        said = eventually(lambda: self._said(begin), what="the bare task has run")
        return float(said) - sent_at

    def _said(self, begin: int) -> str:
        said = self._out.read_text()[begin:] if self._out.exists() else ""
        return said if said.endswith("\n") else ""


@contextmanager
def bare_celery(installation: Installation) -> Iterator[Bare]:
    os.environ["BARE_BROKER"] = broker_url(installation.plan.env.redis_url)
    command = [sys.executable, "-m", "celery", "--app", "benchmarks.dispatch_bare", "--quiet", "worker",
               "--concurrency", "1", "--loglevel", "info"]  # fmt: skip
    log = installation.folder / "bare.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=CHECKOUT, stdout=file, stderr=file)
    try:
        eventually(lambda: b" ready." in log.read_bytes(), what="the bare worker listens")
        yield Bare(installation.folder / "bare.out")
    finally:
        process.terminate()
        process.wait()


def child_alone() -> float:
    began_at = time.time()
    return float(subprocess.run(CLOCK, capture_output=True, check=True).stdout) - began_at


def show(rows: dict[str, Sequence[float]], jobs: int) -> None:
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}, "
          f"load {load:.1f}; {jobs} jobs one after the other, milliseconds\n")  # fmt: skip
    print(f"{'':<42}{'p50':>7}{'p90':>7}{'p99':>7}{'most':>7}")
    for name, seconds in rows.items():
        cuts = statistics.quantiles(seconds, n=100)
        figures = [statistics.median(seconds), cuts[89], cuts[98], max(seconds)]
        print(f"{name:<42}" + "".join(f"{1000 * figure:7.1f}" for figure in figures))


if __name__ == "__main__":
    main()
