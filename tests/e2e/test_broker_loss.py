"""The broker's data lost (FLUSHALL): at every step of a hibernation and of a wake, and with jobs in the queues."""

from __future__ import annotations

import threading

import pytest

from agent import wire
from tests.e2e.rented import nothing_was_risked
from tests.e2e.waiting import eventually

JOBS = 5


class Flusher:
    """FLUSHALL whenever the instance's chain has come to another step, and twice while it is there."""

    def __init__(self, rented):
        self.rented = rented
        self.flushed = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self):
        broker = self.rented.installation.broker()
        while not self._over.wait(0.02):
            chain = self.rented.chain()
            at = chain and (chain["kind"], chain["step"])
            if at and self.flushed.count(at) < 2:
                broker.flushall()
                self.flushed.append(at)
        broker.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_chains_end_although_every_message_is_lost_at_every_step(rent):
    rented = rent("forgotten")
    before = rented.fill(seed=4)
    with Flusher(rented) as flusher:
        rented.hibernate()
        rented.until("hibernated", within_s=120)
        assert rented.wake().status == 202
        rented.until("running", within_s=120)
    print(f"\nflushed {len(flusher.flushed)} times, at {sorted(set(flusher.flushed))}")
    assert len({step for _, step in flusher.flushed}) >= 5
    assert rented.differences(before) == []
    assert rented.host_said() == {"rented": 2, "destroyed": 1, "gone": 1}
    assert [row["state"] for row in rented.snapshots()] == ["verified"]
    nothing_was_risked(rented)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_jobs_whose_bells_are_lost_run_all_the_same_and_once(installation, join, submit, tmp_path):
    # A long interval: they are not taken for lost while their agents are away.
    workers = [join("deaf", "colab", check_interval_s=30) for _ in range(2)]
    client = installation.client()
    for worker in workers:
        installation.kill(worker.name)
    script = f"echo $DORMOUSE_JOB_ID >> {tmp_path / 'ran'}"
    jobs = [submit(script=script, provider="colab") for _ in range(JOBS)]
    broker = installation.broker()
    bells = [wire.queue_key(worker.id) for worker in workers]
    eventually(lambda: all(broker.llen(key) for key in bells), what="the bells are in the queues")
    broker.flushall()
    broker.close()
    installation.start_again(*(worker.name for worker in workers))
    for job in jobs:
        ended = eventually(lambda job=job: client.job_ended(job), what="the job ends", within_s=90)
        assert (ended["status"], len(ended["attempts"])) == ("succeeded", 1), ended
    assert sorted((tmp_path / "ran").read_text().split()) == sorted(jobs)
