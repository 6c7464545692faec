"""Jobs end to end: to the worker that is safe on quota, logs whole, and once, whatever dies meanwhile."""

import json
import os
import re
import signal
from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.client import Client
from tests.e2e.waiting import eventually
from tests.e2e.wire import CuttableWire

LINES = 20_000
TALKATIVE = f"""
import sys
for number in range({LINES}):
    print(f"line {{number}} áé", file=sys.stderr if number % 2 else sys.stdout)
"""


def near_its_limit():
    return ["--session-started", (datetime.now(UTC) - timedelta(hours=10.81)).isoformat()]


def test_job_goes_to_the_safe_worker_and_its_output_arrives_whole(installation, join, submit):
    tired = join("colab-tired", "colab", extra=near_its_limit())
    fresh = join("colab-fresh", "colab")
    client = installation.client()
    shown = eventually(
        lambda: (found := client.worker(tired.name)) and not found["quota"]["safe"] and found,
        what="94 % of a session is not safe",
    )
    assert "near its limit: session 10.8" in shown["quota"]["reason"]
    jobs = [
        submit(name=name, command=["python3", "-c", TALKATIVE], provider="colab", timeout_s=60)
        for name in ("one", "two")
    ]
    for job in jobs:
        ended = eventually(lambda job=job: client.job_ended(job), what="the job ends")
        assert ended["status"] == "succeeded", ended["reason"]
        assert ended["worker"]["name"] == fresh.name
        lines = client.log(job).splitlines()
        assert sorted(lines) == sorted(f"line {number} áé" for number in range(LINES))


@pytest.mark.slow
def test_job_that_only_a_worker_near_its_limit_could_run_waits_and_says_so(installation, join, submit):
    join("colab-tired", "colab", extra=near_its_limit())
    client = installation.client()
    job = submit(command=["true"], provider="colab")
    eventually(lambda: "near their limit" in client.job(job)["reason"], what="the job says why it waits")
    assert client.job(job)["status"] == "queued"


@pytest.mark.slow
def test_job_of_a_killed_worker_runs_again_elsewhere_and_its_late_report_is_refused(
    installation, join, submit
):
    first, second = join("first", "kaggle"), join("second", "kaggle")
    client = installation.client()
    counter = installation.folder / "runs"
    # The first run ends only when it is allowed to, the second one at once.
    script = f"""
echo "attempt $DORMOUSE_ATTEMPT" >> {counter}
echo "attempt $DORMOUSE_ATTEMPT"
[ "$DORMOUSE_ATTEMPT" != 1 ] || while [ ! -e {counter}.go ]; do sleep 0.05; done
"""
    job = submit(script=script, provider="kaggle", timeout_s=120)
    eventually(lambda: client.job(job)["status"] == "running" and counter.exists(), what="the job runs")
    by_name = {worker.name: worker for worker in (first, second)}
    victim = by_name[client.job(job)["worker"]["name"]]
    dispatch = installation.attempt(job)
    os.kill(installation.pid(victim.name), signal.SIGKILL)
    ended = eventually(lambda: client.job_ended(job), what="the job ends elsewhere")
    assert ended["status"] == "succeeded", ended["reason"]
    assert ended["worker"]["name"] != victim.name
    assert client.log(job) == "attempt 2\n"

    installation.launch(victim.name)
    (installation.folder / "runs.go").touch()
    eventually(
        lambda: re.search(f"dispatch={dispatch} .*409 stand_down", victim.said()),
        what="the first worker's agent is told to stand down",
    )
    # Said once more by hand, with that worker's own credentials and the fence that it was given.
    agent = Client(installation.url, token=access_token(installation.url, victim))
    late = agent.call(
        "POST", f"/api/agent/dispatch/{dispatch}/finish", {"fence": 1, "outcome": "failed", "exit_code": 1}
    )
    assert (late.status, late.code) == (409, "stand_down")
    again = client.job(job)
    assert (again["status"], again["exit_code"], again["ended_at"]) == ("succeeded", 0, ended["ended_at"])
    assert [one["status"] for one in sorted(again["attempts"], key=lambda one: one["number"])] == [
        "withdrawn",
        "succeeded",
    ]
    assert counter.read_text() == "attempt 1\nattempt 2\n"


@pytest.mark.slow
def test_a_worker_whose_network_was_cut_stands_down_and_what_it_came_to_is_kept_to_be_looked_at(
    installation, join, submit
):
    wire = CuttableWire(installation.url)
    first = join("cut-off", "kaggle", extra=("--join", wire.url))
    client, marks = installation.client(), installation.folder / "cut"
    script = f"""
echo "attempt $DORMOUSE_ATTEMPT"
[ "$DORMOUSE_ATTEMPT" != 1 ] || while [ ! -e {marks}.go ]; do sleep 0.05; done
echo "attempt $DORMOUSE_ATTEMPT ends"
"""
    job = submit(script=script, provider="kaggle", timeout_s=120)
    eventually(lambda: client.log(job), what="the job runs")
    last_seen_at = client.worker(first.name)["last_seen_at"]
    wire.cut()
    # Nobody tells it anything: its job goes on, ends, and its result waits for somebody to hear it.
    marks.with_suffix(".go").touch()
    eventually(lambda: "ended outcome=succeeded" in first.said(), what="the job ends behind the cut")
    second = join("reachable", "kaggle")
    ended = eventually(lambda: client.job_ended(job), what="the job runs again elsewhere")
    assert (ended["status"], ended["worker"]["name"]) == ("succeeded", second.name)
    assert client.log(job) == "attempt 2\nattempt 2 ends\n"
    lost = next(one for one in ended["attempts"] if one["number"] == 1)
    assert (lost["status"], lost["late"]) == ("withdrawn", None)
    dispatch = installation.rows.one("SELECT * FROM pool_dispatch WHERE job_id = ? AND number = 1", job)
    silent_s = (dispatch["state_since"] - datetime.fromisoformat(last_seen_at)).total_seconds()
    # Two beats of 1 s and what a post may be late (0.25 of a beat and 2 s), found by the next tick of 5 s.
    assert silent_s < 2.25 + 2 + 5 + 2, silent_s

    wire.mend()
    kept = eventually(
        lambda: next(one for one in client.job(job)["attempts"] if one["number"] == 1)["late"],
        what="its late report is kept",
    )
    assert (kept["outcome"], kept["exit_code"]) == ("succeeded", 0)
    assert kept["output_tail"] == "attempt 1\nattempt 1 ends\n"
    assert kept["output_bytes"] == len(kept["output_tail"])
    after = client.job(job)
    moving = ("status", "exit_code", "ended_at", "attempt", "worker", "reason")
    assert {name: after[name] for name in moving} == {name: ended[name] for name in moving}
    eventually(lambda: client.worker(first.name, status="online"), what="the worker is back")


def access_token(url, worker):
    identity = json.loads((worker.folder / "identity.json").read_text())
    answer = Client(url).post("/api/agent/token", worker_id=identity["worker_id"], secret=identity["secret"])
    return answer["access_token"]
