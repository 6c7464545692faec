"""Two beats and two complete sets of Celery workers at once: what happens, happens once."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.e2e.rented import nothing_was_risked
from tests.e2e.waiting import eventually

DOUBLED = ("worker-tick", "worker-chains", "beat")
INSTANCES = 3
JOBS = 20


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_of_everything_do_everything_once(installation, join, submit, rent, tmp_path):
    seconds = [installation.second(name) for name in DOUBLED]
    for name in seconds:
        installation.launch(name)
    try:
        eventually(
            lambda: all(" ready." in installation.said(name) for name in seconds[:2]),
            what="the second set of workers listens",
        )
        for number in (1, 2):
            join(f"pool-{number}", "kaggle")
        instances = [rent("doubled") for _ in range(INSTANCES)]
        before = [one.fill(seed=10 + number) for number, one in enumerate(instances)]
        client = installation.client()
        script = f"echo $DORMOUSE_JOB_ID >> {tmp_path / 'ran'}"
        jobs = [submit(script=script, provider="kaggle") for _ in range(JOBS)]
        for one in instances:
            one.hibernate()
        for one in instances:
            one.until("hibernated", within_s=120)
        for one in instances:
            assert one.wake().status == 202
        for one in instances:
            one.until("running", within_s=120)
        for job in jobs:
            ended = eventually(lambda job=job: client.job_ended(job), what="the job ends", within_s=90)
            assert (ended["status"], len(ended["attempts"])) == ("succeeded", 1), ended
        assert sorted((tmp_path / "ran").read_text().split()) == sorted(jobs)
        for one, looked in zip(instances, before, strict=True):
            assert one.differences(looked) == []
            assert one.host_said() == {"rented": 2, "destroyed": 1, "gone": 1}
            assert [row["state"] for row in one.snapshots()] == ["verified"]
            nothing_was_risked(one)
            assert set(moves(one).values()) == {1}, moves(one)
        leading = [name for name in ("beat", "beat-2") if " leads\n" in installation.said(name)]
        assert leading == ["beat"]
    finally:
        for name in seconds:
            installation.forget(name)


def moves(rented):
    """How often each change of the instance's state was recorded, per epoch."""
    events = rented.installation.rows.all(
        "SELECT from_state, to_state, data FROM core_event WHERE subject_id = ? AND from_state <> ''",
        rented.id,
    )
    return Counter((event["from_state"], event["to_state"], event["data"]["epoch"]) for event in events)
