"""The control plane away, a part at a time, while a job runs and a snapshot uploads: agents hold on, nothing is lost."""

from __future__ import annotations

import json
import os
import signal

import pytest

from gateway import keys
from tests.e2e.rented import nothing_was_risked
from tests.e2e.waiting import eventually

AWAY = {
    "web": ("web",),
    "gateway": ("gateway",),
    "valkey": ("valkey",),
    "celery": ("worker-tick", "worker-chains"),
    "everything but the database": ("web", "gateway", "valkey", "worker-tick", "worker-chains", "beat"),
}
UPLOAD_BYTES = 40_000_000
COUNTING = """
number=0
while [ ! -e {go} ]; do number=$((number + 1)); echo $number; sleep 0.05; done
echo end
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("away", AWAY.values(), ids=AWAY)
def test_agents_hold_on_and_nothing_is_lost(installation, join, submit, rent, tmp_path, away):
    worker = join("steady", "kaggle", check_interval_s=3)
    rented = rent("saved")
    before = rented.fill(seed=3, bytes_more=UPLOAD_BYTES)
    client = installation.client()
    script = COUNTING.format(go=tmp_path / "go")
    job = submit(script=script, provider="kaggle", timeout_s=200)
    eventually(lambda: client.log(job), what="the job's output arrives")

    rented.hibernate()
    eventually(
        lambda: any(row["state"] == "claimed" for row in rented.dispatches("snapshot")),
        what="the agent has begun the snapshot",
    )
    agent = BoxAgent(rented)
    agent.signal(signal.SIGSTOP)  # so that its upload falls into the outage
    posts = installation.broker()
    posted = posts.xlen(keys.STATUS_STREAM)
    with installation.without(*away):
        agent.signal(signal.SIGCONT)
        if "worker-tick" in away and "gateway" not in away:
            eventually(lambda: posts.xlen(keys.STATUS_STREAM) >= posted + 5, what="status posts pile up")
        else:
            eventually(lambda: noticed(worker.said()), what="the worker's agent notices")
    posts.close()

    (tmp_path / "go").touch()
    ended = eventually(lambda: client.job_ended(job), what="the job ends")
    assert (ended["status"], len(ended["attempts"])) == ("succeeded", 1), ended
    lines = client.log(job).splitlines()
    assert lines == [*map(str, range(1, len(lines))), "end"]

    rented.until("hibernated", within_s=120)
    assert rented.wake().status == 202
    rented.until("running", within_s=120)
    assert rented.differences(before) == []
    assert rented.host_said() == {"rented": 2, "destroyed": 1, "gone": 1}
    assert [row["state"] for row in rented.snapshots()] == ["verified"]
    nothing_was_risked(rented)


def noticed(log):
    return " log waits " in log or " not delivered, again in " in log


class BoxAgent:
    """The agent's process in an instance's living box."""

    def __init__(self, rented):
        box = rented.installation.box_folder(rented.box()["provider_ref"])
        self.pid = json.loads((box / "agent.json").read_text())["pid"]

    def signal(self, number):
        os.kill(self.pid, number)
