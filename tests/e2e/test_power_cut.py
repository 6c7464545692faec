"""`./run`, everything killed at once, `./run` again on the same data: jobs, boxes and chains go on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from config.paths import CHECKOUT
from tests.e2e.installation import Installation
from tests.e2e.rented import Rented, nothing_was_risked
from tests.e2e.waiting import eventually

RUN = [sys.executable, "-m", "config.launcher"]
START_WITHIN_S = 180


class Run:
    """`./run` in an installation's folder, with two local workers."""

    def __init__(self, installation):
        self.out = installation.folder / "run.out"
        env = {**installation.plan.environ, "DORMOUSE_LOCAL_AGENTS": "2", "NO_BROWSER": "1"}
        with self.out.open("ab") as out:
            begin = out.tell()
            self.process = subprocess.Popen(RUN, cwd=CHECKOUT, env=env, stdout=out, stderr=out)

        def ready():
            said = self.out.read_bytes()[begin:].decode()
            assert self.process.poll() is None, said
            return "Press Ctrl-C" in said

        eventually(ready, what="./run is ready", within_s=START_WITHIN_S)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_everything_goes_on_after_a_power_cut(tmp_path):
    installation = Installation(tmp_path)
    run = Run(installation)
    try:
        client = installation.client()
        account = client.post("/api/accounts", kind="local", label="rented")["id"]
        awake, sleeping, waking = (
            Rented.rent(installation, account=account, name=name) for name in ("awake", "sleeping", "waking")
        )
        for one in (awake, sleeping, waking):
            one.until("running")
        before = {one.id: one.fill(seed=number) for number, one in enumerate((awake, sleeping, waking))}
        waking.hibernate()
        waking.until("hibernated")
        box = awake.box()
        counted = installation.folder / "counted"
        long = f"echo $DORMOUSE_ATTEMPT >> {counted}; while [ ! -e {counted}.go ]; do sleep 0.1; done"
        running = [client.post("/api/jobs", script=long)["id"],
                   client.post("/api/jobs", script=long, instance=awake.id)["id"]]  # fmt: skip
        for job in running:
            eventually(lambda job=job: client.job(job)["status"] == "running", what="the job runs")
        for_later = [client.post("/api/jobs", script="true")["id"] for _ in range(4)]
        sleeping.hibernate()
        assert waking.wake().status == 202
        eventually(
            lambda: (sleeping.chain() or {}).get("step") in ("snapshot", "verify", "recheck", "destroy"),
            what="the hibernation is under way",
        )
        installation.power_cut()
        run.process.wait()

        run = Run(installation)
        counted.with_name("counted.go").touch()
        for job in [*running, *for_later]:
            ended = eventually(lambda job=job: client.job_ended(job), what="the job ends", within_s=120)
            assert ended["status"] == "succeeded", ended
        # A job dies with its machine, and runs again: once. An attempt given to a worker that was not back yet, and that
        # no worker ever claimed, was run by nobody.
        claimed = installation.rows.all(
            "SELECT number FROM pool_dispatch WHERE job_id IN (?, ?) AND claimed_at IS NOT NULL", *running
        )
        ran = sorted(counted.read_text().split())
        assert ran == sorted(str(attempt["number"]) for attempt in claimed)
        assert len(ran) == 4 and ran[:2] == ["1", "1"]
        awake.until("running", "idle", within_s=120)
        assert awake.box()["id"] == box["id"]
        waking.until("running", within_s=120)
        sleeping.until("hibernated", within_s=120)
        sleeping.a_minute_later()
        assert sleeping.wake().status == 202
        sleeping.until("running", within_s=120)
        for one in (awake, sleeping, waking):
            assert one.differences(before[one.id]) == []
            nothing_was_risked(one)
        boxes = {one.name: one.host_said()["rented"] for one in (awake, sleeping, waking)}
        assert boxes == {"awake": 1, "sleeping": 2, "waking": 2}
    finally:
        run.process.terminate()
        run.process.wait()
    assert not installation.processes()
