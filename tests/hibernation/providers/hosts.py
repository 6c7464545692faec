"""Real local hosts for tests: started, killed, started again, and nothing of them left at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hibernation.providers.base import BoxSpec, OfferQuery, Phase, ProviderBusy
from hibernation.providers.local import LocalProvider
from hibernation.providers.local_process import identity, marked

CHECKOUT = Path(__file__).resolve().parents[3]
STAND_IN = f"{sys.executable} {Path(__file__).with_name('stand_in.py')}"
SLEEPER = "sleep 1000"
DISK_BYTES = 10 * 10**9

T = TypeVar("T")


def eventually(look: Callable[[], T], *, within_s: float = 10.0) -> T:
    """The first true thing that `look` returns; the test fails if there is none in time."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within_s} s: {look}"
        time.sleep(0.01)


def box_spec(label: str, **more: Any) -> BoxSpec:
    given = {"disk_bytes": DISK_BYTES, "url": "http://127.0.0.1:1", "join_token": "once-only", **more}
    return BoxSpec(label=label, **given)


class LocalHost:
    """One folder and the daemon that owns it. command: what runs in place of the agent."""

    def __init__(
        self, folder: Path, *, command: str = SLEEPER, env: Mapping[str, str] | None = None, **options: float
    ) -> None:
        self.folder = folder
        self.provider = LocalProvider(folder, timeout_s=5)
        self.process: subprocess.Popen[bytes] | None = None
        self._env = {**os.environ, **(env or {})}
        flags = {"boxes": 8, "boot_s": 0, "grace_s": 1, **options}
        self._arguments = [
            word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        if command:
            self._arguments += ["--agent-command", command]

    def start(self) -> LocalHost:
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hibernation.providers.local_host", str(self.folder), *self._arguments],
                cwd=CHECKOUT, env=self._env, stdout=log, stderr=log,
            )  # fmt: skip
        eventually(self._answers)
        return self

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def clean_up(self) -> None:
        """Stop it, and hold it to its word: not one process of its boxes is left."""
        if self.process is not None:
            self.stop()
        assert eventually(lambda: not marked(f"{self.folder}:"))

    def create(self, label: str, **more: Any) -> str:
        offers = self.provider.offers(OfferQuery(disk_bytes=DISK_BYTES))
        return self.provider.create(offers[0].id, box_spec(label, **more))

    def box(self, ref: str) -> Path:
        return self.folder / "boxes" / ref

    def given(self, ref: str) -> dict[str, Any]:
        """What the stand-in was started with, once it has been."""
        path = self.box(ref) / "agent-state" / "given.json"
        eventually(path.exists)
        found = json.loads(path.read_text())
        found["identities"] = {pid: identity(pid) for pid in (found["pid"], found["hidden"], found["marked"])}
        return found

    def phase(self, ref: str) -> Phase | None:
        facts = self.provider.read(ref)
        return facts and facts.phase

    def until_gone(self, ref: str) -> None:
        eventually(
            lambda: self.provider.read(ref) is None and ref not in {b.ref for b in self.provider.listing()}
        )

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, "the local host ended at once"
        try:
            self.provider.listing()
        except ProviderBusy:
            return False
        return True

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        process, self.process = self.process, None
        process.send_signal(number)
        try:
            return process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def lives(identities: Mapping[int, str | None]) -> list[int]:
    """Which of these processes are still the ones that they were."""
    return [pid for pid, known in identities.items() if known is not None and identity(pid) == known]
