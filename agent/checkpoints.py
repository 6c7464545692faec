"""Checkpoints of one attempt: the folder restored before its command starts, kept while it runs, and once more at its end.

How a job says "now" (docs/design/checkpoints.md): it makes the file `now` in DORMOUSE_CHECKPOINT_DIR, and holds its files
still until that file is gone. `last` says then which generation holds them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.client import Client, StandDown
from agent.draining import first_checkpoint_s
from agent.errors import UsageError
from agent.files import read_json, write_private
from agent.folder_size import Size, size_of
from agent.hold import Halt, Hold
from agent.runner import WorkRefused
from agent.wire import Claimed, FinishPost

if TYPE_CHECKING:
    from agent.checkpoint_work import CheckpointWork

log = logging.getLogger("agent.checkpoints")

NOW, LAST = "now", "last"
LOOK_EVERY_S = 0.05
AGAIN_FIRST_S, AGAIN_CAP_S = 1.0, 60.0
"""How soon one that could not be taken is tried again, doubling."""

LAST_AFTER_RESTART_S = 120.0

MEASURE_EVERY_S, MEASURED_WITHIN_S = 30.0, 5.0
"""Until the first one is taken: how often it is looked how much there is, and how long that may take."""

LONGEST_S = 24 * 3600.0
"""No checkpoint takes longer."""

STOPPED_WITHIN_S, STOPPED_WITHIN_PART = 5.0, 0.2
"""How long the end waits for one that is under way and was told to stop."""


class NotRestored(Exception):
    """The command must not start. `finish` is the report."""

    def __init__(self, finish: FinishPost) -> None:
        super().__init__(finish.reason)
        self.finish = finish


def keeps_checkpoints(claim: Claimed) -> bool:
    """Whether this is a job whose working folder is kept. Raises WorkRefused where it says so in words unknown here."""
    wish = claim.work.get("checkpoint")
    if wish is None or claim.kind != "job":
        return False
    every_s = wish.get("every_s") if isinstance(wish, dict) else None
    if isinstance(every_s, bool) or not isinstance(every_s, int | float) or not every_s > 0:
        raise WorkRefused(f"checkpoint must say every_s in seconds, not {wish!r}")
    return True


def _told_s(last: Path) -> float | None:
    """How long the newest one took, as the job was told: for an agent that was started anew. The job may write there."""
    try:
        said = (read_json(last) or {}).get("seconds")
    except (OSError, UsageError):
        return None
    if isinstance(said, bool) or not isinstance(said, int | float):
        return None
    return float(said) if 0 <= said < LONGEST_S else None


class Checkpoints:
    """Of one attempt. folder: the run's; its working folder is `work` in it. One checkpoint at a time."""

    def __init__(self, *, client: Client, hold: Hold, folder: Path, backoff_cap_s: float) -> None:
        self._client = client
        self._hold = hold
        self._folder = folder
        self._backoff_cap_s = backoff_cap_s
        self._every_s = float(hold.claim.work["checkpoint"]["every_s"])
        self._control = folder / "checkpoint"
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._number = 0
        self._took_s = _told_s(self._control / LAST)
        self._size = Size()
        self._size_since_ns = 0

    @property
    def expected_s(self) -> float:
        """How long the last one is going to take: by what the one before took, else by how much there is to keep."""
        if self._took_s is not None:
            return 1.5 * self._took_s + 1.0
        return first_checkpoint_s(files=self._size.files, size_bytes=self._size.size_bytes)

    def restore(self, stopped: Callable[[], bool]) -> dict[str, str]:
        """The newest checkpoint into the working folder, which must not be there yet; the command's variables.

        stopped: asked again and again; it is given up then. Raises NotRestored: the folder is then as it was. Raises StandDown where the attempt is over.
        """
        self._control.mkdir(mode=0o700, parents=True, exist_ok=True)
        variables = {"DORMOUSE_CHECKPOINT_DIR": str(self._control)}
        restored = self._work().restore(stopped)
        if restored is not None:
            variables["DORMOUSE_RESTORED_FROM"] = restored
            # What was restored is in the store already: only what changes from now on has to be kept.
            self._size_since_ns = time.time_ns()
        return variables

    def watch(self) -> None:
        """From now on one every so often, and whenever the job asks; in the background, until `end`."""
        name = f"checkpoints {self._hold.claim.dispatch_id}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """No more of them. One that is under way is given up: what it would hold is out of date."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(self._patience_s())

    def _patience_s(self) -> float:
        """Where this worker ends most of what is left is for the last one: what is late then fails nothing any more."""
        if self._hold.ending is None:
            return STOPPED_WITHIN_S
        return min(STOPPED_WITHIN_S, max(0.0, STOPPED_WITHIN_PART * self._hold.checkpoint_left_s()))

    def last(self) -> None:
        """The command has been ended to run again elsewhere: its folder as it left it, if there is time for that."""
        began_s = time.monotonic()

        def left_s() -> float:
            # An agent that died in the middle of this and was started again has no end in sight of its own.
            if self._hold.ending is None:
                return began_s + LAST_AFTER_RESTART_S - time.monotonic()
            return self._hold.checkpoint_left_s()

        if left_s() <= 0:
            log.warning("dispatch=%s no time is left for a last checkpoint", self._hold.claim.dispatch_id)
            return
        with contextlib.suppress(StandDown):
            self._take(lambda: left_s() <= 0 or self._hold.halt is Halt.STAND_DOWN)

    # -- in its own thread ------------------------------------------------------------------------

    def _run(self) -> None:
        due_s, again_s = time.monotonic() + self._every_s, AGAIN_FIRST_S
        not_before_s = measure_s = 0.0
        while not self._over.wait(LOOK_EVERY_S):
            if self._took_s is None and time.monotonic() >= measure_s:
                self._size = size_of(
                    self._folder / "work",
                    since_ns=self._size_since_ns,
                    within_s=MEASURED_WITHIN_S,
                    stopped=self._over.is_set,
                )
                measure_s = time.monotonic() + MEASURE_EVERY_S
            asked = (self._control / NOW).exists()
            now_s = time.monotonic()
            if now_s < not_before_s or not (asked or now_s >= due_s):
                continue
            try:
                taken = self._take(self._over.is_set)
            except StandDown:
                self._hold.supersede()
                return
            if taken is None:
                not_before_s = time.monotonic() + again_s
                again_s = min(AGAIN_CAP_S, 2 * again_s)
                continue
            due_s, again_s = time.monotonic() + self._every_s, AGAIN_FIRST_S
            self._tell_job(taken, asked=asked)

    def _take(self, given_up: Callable[[], bool]) -> Mapping[str, Any] | None:
        """What the job may know of the one that was taken; None where none was. Raises StandDown."""
        began_s = time.monotonic()
        with self._lock:
            # By the wall clock, so that it also grows from one agent to the next on this machine.
            self._number = number = max(self._number + 1, int(1000 * time.time()))
        taken = self._work().take(request_id=secrets.token_hex(8), number=number, given_up=given_up)
        if taken is not None:
            self._took_s = time.monotonic() - began_s
        return taken

    def _tell_job(self, taken: Mapping[str, Any], *, asked: bool) -> None:
        try:
            write_private(self._control / LAST, json.dumps(taken) + "\n")
            if asked:
                (self._control / NOW).unlink(missing_ok=True)
        except OSError as error:
            log.warning(
                "dispatch=%s the job was not told of its checkpoint: %s", self._hold.claim.dispatch_id, error
            )

    def _work(self) -> CheckpointWork:
        # The engine with its compressors is loaded by the first job that keeps checkpoints, not by every start.
        from agent.checkpoint_work import CheckpointWork

        return CheckpointWork(
            client=self._client,
            hold=self._hold,
            work=self._folder / "work",
            stat_index=self._folder / "stat-index",
            backoff_cap_s=self._backoff_cap_s,
        )
