"""A long job hops from session to session: killed without warning, drained at the limit, and never set back.

`pytest -s` prints the timeline.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from datetime import UTC, datetime

import pytest

from agent import processes
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SESSION_S = 50.0

# It reports a value only when a checkpoint holds it. What is outside of its working folder is the test's, not the job's.
COUNTING = """
n=$(cat counter 2>/dev/null || echo 0)
echo "attempt $DORMOUSE_ATTEMPT begins at $n from ${DORMOUSE_RESTORED_FROM-nothing}"
while [ ! -e {outside}/enough ]; do
  n=$((n + 1))
  echo $n > counter.new && mv counter.new counter
  date >> history
  touch "$DORMOUSE_CHECKPOINT_DIR/now"
  while [ -e "$DORMOUSE_CHECKPOINT_DIR/now" ]; do sleep 0.02; done
  echo "$n $DORMOUSE_ATTEMPT $DORMOUSE_WORKER_ID" >> {outside}/reported
done
echo "done at $n"
"""


def reported(folder) -> list[tuple[int, int, str]]:
    """Every value that any attempt ever reported, in the order in which it did."""
    with contextlib.suppress(FileNotFoundError):
        rows = (line.split() for line in (folder / "reported").read_text().splitlines())
        return [(int(row[0]), int(row[1]), row[2]) for row in rows]
    return []


def pull_the_plug(installation, worker) -> float:
    """The machine is gone: the agent and everything that it started, at once. When that was."""
    at = time.monotonic()
    os.kill(installation.pid(worker.name), signal.SIGKILL)
    for mark in worker.folder.glob("jobs/*/mark"):
        processes.end(pgid=0, mark=mark.read_text(), trust_group=False, grace_left_s=lambda: 0.0)
    installation.process(worker.name).wait()
    return at


def test_a_job_needs_three_sessions_each_killed_once_and_its_counter_never_goes_back(
    installation, join, submit, tmp_path
):
    client, began = installation.client(), datetime.now(UTC)
    told: list[tuple[float, str]] = []

    def tell(what: str) -> None:
        told.append(((datetime.now(UTC) - began).total_seconds(), what))

    def values(worker, *, at_least: int, after: int = 0):
        """Until that worker has reported so many values beyond `after`."""
        return eventually(
            lambda: len([v for v, _, by in reported(tmp_path) if by == worker.id and v > after]) >= at_least,
            what=lambda: f"{worker.name} gets on: {reported(tmp_path)[-3:]} {client.job(job)['reason']}",
            within_s=90,
        )

    def ends_itself(worker) -> None:
        process = installation.process(worker.name)
        assert process.wait(timeout=120) == 0, worker.said()[-3000:]
        tell(f"{worker.name} has ended its own session")
        found = eventually(lambda: client.worker(worker.name, status="offline"), what="its books are closed")
        assert found["reason"] == "its session has ended"
        session = installation.rows.one("SELECT * FROM pool_session WHERE worker_id = ?", worker.id)
        assert session["ended_at"] is not None
        assert 0.7 * SESSION_S < session["runtime_s"] <= SESSION_S + 1, "in time, and not long before"
        dispatches = installation.rows.all(
            "SELECT * FROM pool_dispatch WHERE worker_id = ? ORDER BY number", worker.id
        )
        assert dispatches[-1]["state"] == "interrupted"
        assert "limit of 0.0138889 h is near" in dispatches[-1]["reason_params"]["error"]

    limits = {"session_limit_h": 1.2 * SESSION_S / 3600, "session_shutdown_h": SESSION_S / 3600}
    job = submit(
        script=COUNTING.replace("{outside}", str(tmp_path)), checkpoint={"every_minutes": 10}, grace_s=3
    )
    lost_s = []
    workers = []
    for kind in ("colab", "kaggle", "local"):
        worker = join(f"hop-{kind}", kind, **(limits if kind != "local" else {}))
        workers.append(worker)
        tell(f"{worker.name} has joined")
        values(worker, at_least=3)
        before = reported(tmp_path)[-1]
        killed_s = pull_the_plug(installation, worker)
        tell(f"{worker.name} is killed without warning at value {before[0]}, attempt {before[1]}")
        eventually(lambda: client.job(job)["status"] == "queued", what="the job waits again")
        lost_s.append(time.monotonic() - killed_s)
        tell("the job is queued again")
        installation.launch(worker.name)
        values(worker, at_least=3, after=reported(tmp_path)[-1][0])
        tell(f"{worker.name} goes on at value {reported(tmp_path)[-1][0]}")
        if kind != "local":
            ends_itself(worker)
    (tmp_path / "enough").touch()
    ended = eventually(lambda: client.job_ended(job), what="the job ends")
    tell(f"the job has {ended['status']}")

    everything = reported(tmp_path)
    for at_s, what in told:
        print(f"{at_s:7.2f} s  {what}")
    for attempt in ended["attempts"]:
        mine = [value for value, number, _ in everything if number == attempt["number"]]
        said = f"values {mine[0]}..{mine[-1]}" if mine else "no value"
        print(
            f"attempt {attempt['number']} {attempt['worker']['name']:14} {said:16} from "
            f"{attempt['restored_from'] or '-':20} {attempt['status']}: {attempt['reason']}"
        )
    print(f"queued again after {', '.join(f'{s:.1f}' for s in lost_s)} s; agents post every second")

    assert ended["status"] == "succeeded", ended["reason"]
    assert [value for value, _, _ in everything] == sorted({value for value, _, _ in everything}), everything
    assert {by for _, _, by in everything} == {worker.id for worker in workers}
    assert [one["status"] for one in ended["attempts"]] == [
        "withdrawn", "interrupted", "withdrawn", "interrupted", "withdrawn", "succeeded",
    ]  # fmt: skip
    assert all(one["restored_from"] for one in ended["attempts"][1:])
    assert client.log(job).splitlines()[-1] == f"done at {everything[-1][0]}"
