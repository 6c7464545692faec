"""Random processes killed at random moments, over several nights of several instances: nothing is lost, nothing doubled.

The seed is printed; `CHAOS_SEED=<number>` runs it again, `CHAOS_NIGHTS=<number>` runs it for longer. What the scheduler of the machine does is not repeated, the
choice of victims is.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import requests

from tests.e2e.rented import Rented, nothing_was_risked
from tests.e2e.waiting import eventually

INSTANCES = 4
NIGHTS = int(os.environ.get("CHAOS_NIGHTS", "") or 2)
PAUSE_S = (1.0, 4.0)
NIGHT_WITHIN_S = 300.0
SERVERS = ("web", "gateway", "valkey", "worker-tick", "worker-chains", "worker-chains-2", "worker-chains-3", "beat",
           "local-host")  # fmt: skip
VICTIMS = [*SERVERS, "broker's data", "celery child", "agent", "agent", "box"]


class Reaper:
    """Kills something every few seconds, for as long as the block runs."""

    def __init__(self, installation, rng):
        self.installation = installation
        self.rng = rng
        self.killed = Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self):
        while not self._over.wait(self.rng.uniform(*PAUSE_S)):
            victim = self.rng.choice(VICTIMS)
            with contextlib.suppress(ProcessLookupError, redis.RedisError, KeyError):
                self._kill(victim)
                self.killed[victim] += 1

    def _kill(self, victim):
        if victim in SERVERS:
            self.installation.kill(victim, stay_down=False)
        elif victim == "broker's data":
            self.installation.broker().flushall()
        else:
            self._kill_one_of(victim)

    def _kill_one_of(self, victim):
        signs = {
            "celery child": "--queues chains",
            "agent": "tests.chaos.agent_main run",
            "box": "hibernation.providers.local_box",
        }
        servers = {self.installation.pid(name) for name in SERVERS}
        found = sorted(
            pid
            for pid, command in self.installation.processes().items()
            if signs[victim] in command and pid not in servers
        )
        if found:
            os.kill(self.rng.choice(found), signal.SIGKILL)


class Nights:
    """One instance through several nights, by a person who asks again when nobody answers."""

    def __init__(self, installation, account, number):
        self.rented = Rented.rent(installation, account=account, name=f"random-{number}")
        self.number = number

    def run(self):
        self.until("running")
        before = self.rented.fill(seed=self.number, bytes_more=500_000)
        for night in range(NIGHTS):
            self.until("hibernated", ask="hibernate", when=("running", "idle"))
            nothing_was_risked(self.rented)
            self.until("running", ask="wake", when=("hibernated",))
            assert self.rented.differences(before) == [], f"{self.rented.name} after night {night + 1}"

    def until(self, state, *, ask="", when=()):
        def there():
            now = self.state()
            if now in when:
                self.rented.a_minute_later()
                with contextlib.suppress(requests.RequestException):
                    self.rented.client.call("POST", f"/api/instances/{self.rented.id}/{ask}", {})
            return now == state

        eventually(there, what=lambda: f"{self.rented.name} {state}: {self.story()}", within_s=NIGHT_WITHIN_S)

    def state(self):
        rows = self.rented.installation.rows
        return rows.one("SELECT state FROM hibernation_instance WHERE id = ?", self.rented.id)["state"]

    def story(self):
        return json.dumps([self.state(), self.rented.chain()], default=str)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_random_kills_over_several_nights(mortal):
    seed = int(os.environ.get("CHAOS_SEED", "") or random.randrange(10**6))
    print(f"\nCHAOS_SEED={seed}")
    account = mortal.client().post("/api/accounts", kind="local", label=f"random {seed}")["id"]
    nights = [Nights(mortal, account, number) for number in range(INSTANCES)]
    with Reaper(mortal, random.Random(seed)) as reaper, ThreadPoolExecutor(INSTANCES) as pool:
        for ran in [pool.submit(one.run) for one in nights]:
            ran.result()
    print(f"{sum(reaper.killed.values())} kills: {dict(reaper.killed.most_common())}")
    mortal.until_ready()
    rented_labels = Counter(re.findall(r" rented label=(\S+)", mortal.said("local-host")))
    for one in nights:
        nothing_was_risked(one.rented)
        boxes = one.rented.boxes()
        assert all(rented_labels[box["label"]] <= 1 for box in boxes)
        living = one.rented.box()["provider_ref"]
        eventually(
            lambda refs={box["provider_ref"] for box in boxes} - {""}, living=living: (
                {ref for ref in refs if mortal.box_folder(ref).exists()} == {living}
            ),
            what=f"{one.rented.name} has one box and no other",
        )
        mortal.client().call("DELETE", f"/api/instances/{one.rented.id}", discard="workspace")
