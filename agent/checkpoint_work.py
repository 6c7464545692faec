"""What one checkpoint and one restore of a job's folder are made of: ask the control plane, run the engine, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent import wire
from agent.backoff import Backoff
from agent.checkpoints import NotRestored
from agent.client import ApiError, Client, Refused, StandDown, Unreachable, post_until_answered
from agent.hold import Hold
from agent.snapshot_line import Line, Teller
from agent.snapshotting import commit_of, parent_of
from agent.store_away import StoreAway
from agent.wire import CheckpointAnswer, CheckpointPost, FinishPost, RestoreAnswer, RestorePost
from snapshots.engine.errors import Cancelled, EngineError
from snapshots.engine.limits import MIB, Effort
from snapshots.engine.restore import restore
from snapshots.engine.take import take

log = logging.getLogger("agent.checkpoints")

QUIET = Effort(workers=1, streams=4, memory_bytes=96 * MIB)
"""Beside a command that runs: one core at most, and little memory."""

BUSY_CAP_S = 2.0
"""The next attempt waits for a verdict that takes a second or two: it asks that often."""


class CheckpointWork:
    """work: the job's folder. stat_index: beside it, what the last take or restore saw of every file."""

    def __init__(
        self, *, client: Client, hold: Hold, work: Path, stat_index: Path, backoff_cap_s: float
    ) -> None:
        self._client = client
        self._hold = hold
        self._work = work
        self._stat_index = stat_index
        self._backoff_cap_s = backoff_cap_s
        self._id = hold.claim.dispatch_id

    # -- taking -----------------------------------------------------------------------------------

    def take(self, *, request_id: str, number: int, given_up: Callable[[], bool]) -> dict[str, Any] | None:
        """The folder as it is now, committed: {"generation", "files", "bytes", "seconds"}. None where it could not be taken,
        which is logged and told to the control plane. Raises StandDown where this attempt is over."""
        began_s = time.monotonic()
        try:
            generation, files, logical_bytes = self._taken(request_id, number, given_up)
        except StandDown:
            raise
        except (EngineError, Refused, Unreachable, wire.WireError, OSError) as error:
            if not given_up():
                log.warning("dispatch=%s no checkpoint: %s", self._id, error)
                self._tell_failure(request_id, number, str(error))
            return None
        seconds = round(time.monotonic() - began_s, 3)
        log.info(
            "dispatch=%s checkpoint generation=%d files=%d in %.2f s", self._id, generation, files, seconds
        )
        return {"generation": generation, "files": files, "bytes": logical_bytes, "seconds": seconds}

    def _taken(self, request_id: str, number: int, given_up: Callable[[], bool]) -> tuple[int, int, int]:
        post = CheckpointPost(fence=self._hold.claim.fence, request_id=request_id, number=number)
        answer = CheckpointAnswer.from_json(self._ask("checkpoint", wire.to_json(post), given_up=given_up))
        line = self._line(answer.snapshot_id, "plan", given_up)
        terms = line.terms()
        remote, owner_key = line.remote(), terms.owner_key_bytes()
        taken = take(
            self._work,
            remote=remote,
            owner_key=owner_key,
            owner_id=terms.owner_id,
            snapshot_id=terms.snapshot_id,
            parent=parent_of(remote, terms, owner_key),
            stat_index=self._stat_index,
            keep_changing=True,
            ignore=(),
            writer="dormouse agent",
            cancelled=given_up,
            effort=QUIET,
        )
        if given_up():
            raise Cancelled("stopped before it was committed")
        line.post("commit", wire.to_json(commit_of(self._hold.claim.fence, taken)))
        for warning in taken.warnings:
            log.warning("dispatch=%s checkpoint: %s", self._id, warning)
        return answer.generation, taken.files, taken.logical_bytes

    def _tell_failure(self, request_id: str, number: int, error: str) -> None:
        fence = self._hold.claim.fence
        post = CheckpointPost(fence=fence, request_id=request_id, number=number, error=error[:500])
        try:
            self._client.post(wire.dispatch_path(self._id, "checkpoint"), wire.to_json(post))
        except ApiError as also:
            log.info("dispatch=%s not told of it: %s", self._id, also)

    # -- restoring --------------------------------------------------------------------------------

    def restore(self, stopped: Callable[[], bool]) -> str | None:
        """The id of the checkpoint that is in the folder now, whole; None where there is none to go on from.

        Raises NotRestored with the report: the folder is not there then. Raises StandDown.
        """
        self._tell_phase("checkpoint")
        try:
            answer = RestoreAnswer.from_json(
                self._ask(
                    "restore",
                    wire.to_json(RestorePost(fence=self._hold.claim.fence)),
                    given_up=stopped,
                    cap_s=min(BUSY_CAP_S, self._backoff_cap_s),
                )
            )
        except StandDown:
            raise
        except Refused as error:
            raise self._not_restored("failed", error.message) from error
        except (Unreachable, wire.WireError) as error:
            raise self._not_restored("interrupted", f"it is not known what to go on from: {error}") from error
        if answer.snapshot_id is None:
            return None
        try:
            self._put_back(answer, stopped)
        except (EngineError, Refused, Unreachable, wire.WireError, OSError) as error:
            reason = f"checkpoint {answer.generation} could not be restored: {error}"
            raise self._not_restored("interrupted", reason, restore_failed=answer.snapshot_id) from error
        return answer.snapshot_id

    def _put_back(self, answer: RestoreAnswer, stopped: Callable[[], bool]) -> None:
        assert answer.snapshot_id is not None, "there is one to restore"
        line = self._line(answer.snapshot_id, "restore-plan", stopped)
        terms = line.terms()
        away = StoreAway(self._client, self._hold, phase="checkpoint")
        with Teller(self._client, self._hold) as teller:
            restored = restore(
                self._work,
                remote=line.remote(patience=away),
                owner_key=terms.owner_key_bytes(),
                root_key=terms.root_key,
                expected_content_id=answer.content_id,
                stat_index=self._stat_index,
                progress=teller.tell,
                cancelled=stopped,
            )
        for warning in restored.warnings:
            log.warning("dispatch=%s restore: %s", self._id, warning)
        log.info(
            "dispatch=%s restored generation=%d files=%d fetched_bytes=%d in %.2f s",
            self._id, answer.generation, restored.files, restored.fetched_bytes, restored.seconds,
        )  # fmt: skip
        self._tell_phase("restored", files=restored.files, logical_bytes=restored.logical_bytes)

    def _not_restored(self, outcome: str, reason: str, **result: str) -> NotRestored:
        log.error("dispatch=%s not started: %s", self._id, reason)
        fence = self._hold.claim.fence
        return NotRestored(FinishPost(fence=fence, outcome=outcome, reason=reason[:500], result=result))

    def _tell_phase(self, phase: str, *, files: int = 0, logical_bytes: int = 0) -> None:
        """Where it is, for people; whether they hear of it changes nothing."""
        post = wire.ProgressPost(
            fence=self._hold.claim.fence,
            phase=phase,
            files_done=files,
            files_total=files,
            bytes_done=logical_bytes,
            bytes_total=logical_bytes,
        )
        try:
            self._client.post(wire.dispatch_path(self._id, "progress"), wire.to_json(post))
        except ApiError as error:
            log.info("dispatch=%s phase %s not told: %s", self._id, phase, error)

    # -- both -------------------------------------------------------------------------------------

    def _ask(
        self, verb: str, body: dict[str, Any], *, given_up: Callable[[], bool], cap_s: float | None = None
    ) -> dict[str, Any] | None:
        return post_until_answered(
            self._client,
            wire.dispatch_path(self._id, verb),
            body,
            backoff=Backoff(cap_s=cap_s or self._backoff_cap_s),
            given_up=given_up,
        )

    def _line(self, snapshot_id: str, verb: str, given_up: Callable[[], bool]) -> Line:
        # A checkpoint that is no longer wanted says nothing of the attempt: the next question about it will.
        return Line(
            self._client,
            snapshot_id=snapshot_id,
            fence=self._hold.claim.fence,
            verb=verb,
            backoff_cap_s=self._backoff_cap_s,
            given_up=given_up,
            stood_down=lambda: None,
        )
