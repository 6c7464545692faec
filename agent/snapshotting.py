"""Snapshots and restores: the engine does them, the control plane signs every transfer and hears how far they are."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agent import wire
from agent.client import Client, Refused, StandDown, Unreachable
from agent.files import read_json, write_json
from agent.hold import Halt, Hold
from agent.journal import Entry
from agent.saved import Saved
from agent.snapshot_line import Line, Teller
from agent.wire import FinishPost, PutWish, SnapshotTerms
from snapshots.engine.errors import Cancelled, EngineError
from snapshots.engine.manifest import Manifest, load_manifest
from snapshots.engine.remote import PresignedRemote
from snapshots.engine.restore import Restored, restore
from snapshots.engine.take import Taken, take

log = logging.getLogger("agent.snapshotting")

RESTORED_FILE = "restored.json"
STAT_INDEX_FILE = "stat-index"
"""What the last take or restore saw of every file, so that the next take reads only what has changed."""


class SnapshotWork:
    """kind snapshot: the workspace into the store."""

    def __init__(
        self, *, client: Client, workspace: Path | None, state_dir: Path, saved: Saved, backoff_cap_s: float
    ) -> None:
        self._client = client
        self._workspace = workspace
        self._stat_index = state_dir / STAT_INDEX_FILE
        self._saved = saved
        self._backoff_cap_s = backoff_cap_s

    def is_under_way(self, _dispatch_id: str) -> bool:
        return False

    def deliver(self, hold: Hold) -> None:
        """Nothing: the engine has moved the bytes."""

    def last_output(self, _hold: Hold) -> tuple[str, int]:
        """It writes none."""
        return "", 0

    def tidy(self, dispatch_id: str) -> None:
        """Nothing is left on this disk."""

    def run(self, hold: Hold, _entry: Entry) -> FinishPost | None:
        if self._workspace is None or not self._workspace.is_dir():
            return _failed(
                hold, f"there is no workspace to snapshot at {self._workspace or '(no --workspace given)'}"
            )
        return _concluded(hold, partial(self._take, hold, self._workspace))

    def _take(self, hold: Hold, workspace: Path) -> FinishPost:
        line = Line.of(self._client, hold, verb="plan", backoff_cap_s=self._backoff_cap_s)
        try:
            terms = line.terms()
        except Refused as error:
            if error.code == wire.COMMITTED:
                return FinishPost(
                    fence=hold.claim.fence, outcome="succeeded", result={"already_committed": True}
                )
            if error.code == wire.ROOT_PLANNED:
                return FinishPost(fence=hold.claim.fence, outcome="interrupted", reason=error.message)
            raise
        remote = line.remote()
        owner_key = terms.owner_key_bytes()
        before = self._saved.look()
        with Teller(self._client, hold) as teller:
            taken = take(
                workspace,
                remote=remote,
                owner_key=owner_key,
                owner_id=terms.owner_id,
                snapshot_id=terms.snapshot_id,
                parent=parent_of(remote, terms, owner_key),
                stat_index=self._stat_index,
                writer="dormouse agent",
                progress=teller.tell,
                cancelled=lambda: hold.halt is not None,
            )
        if hold.halt is not None:
            raise Cancelled("stopped before it was committed")
        self._saved.uploaded(terms.snapshot_id, before)
        self._commit(hold, line, taken)
        for warning in taken.warnings:
            log.warning("dispatch=%s %s", hold.claim.dispatch_id, warning)
        return FinishPost(
            fence=hold.claim.fence,
            outcome="succeeded",
            result={
                "content_id": taken.content_id,
                "files": taken.files,
                "logical_bytes": taken.logical_bytes,
                "stored_bytes": taken.stored_bytes,
                "seconds": round(taken.seconds, 3),
            },
        )

    def _commit(self, hold: Hold, line: Line, taken: Taken) -> None:
        line.post("commit", wire.to_json(commit_of(hold.claim.fence, taken)))
        log.info(
            "dispatch=%s committed content_id=%s files=%d",
            hold.claim.dispatch_id,
            taken.content_id,
            taken.files,
        )


class RestoreWork:
    """kind restore: a snapshot into the workspace, complete or not at all."""

    def __init__(
        self, *, client: Client, workspace: Path | None, state_dir: Path, backoff_cap_s: float
    ) -> None:
        self._client = client
        self._workspace = workspace
        self._note = state_dir / RESTORED_FILE
        self._stat_index = state_dir / STAT_INDEX_FILE
        self._backoff_cap_s = backoff_cap_s

    def is_under_way(self, _dispatch_id: str) -> bool:
        return False

    def deliver(self, hold: Hold) -> None:
        """Nothing: the engine has moved the bytes."""

    def last_output(self, _hold: Hold) -> tuple[str, int]:
        """It writes none."""
        return "", 0

    def tidy(self, dispatch_id: str) -> None:
        """The workspace stays."""

    def run(self, hold: Hold, _entry: Entry) -> FinishPost | None:
        if self._workspace is None:
            return _failed(
                hold, "this worker was started without --workspace, there is no place to restore to"
            )
        return _concluded(hold, partial(self._restore, hold, self._workspace))

    def _restore(self, hold: Hold, workspace: Path) -> FinishPost:
        line = Line.of(self._client, hold, verb="restore-plan", backoff_cap_s=self._backoff_cap_s)
        terms = line.terms()
        note = read_json(self._note) or {}
        wanted = {"content_id": terms.content_id, "workspace": os.fspath(workspace)}
        ours = terms.content_id is not None and all(note.get(name) == value for name, value in wanted.items())
        if ours and note.get("result") and workspace.is_dir():
            log.info(
                "dispatch=%s is restored already content_id=%s", hold.claim.dispatch_id, terms.content_id
            )
            return FinishPost(fence=hold.claim.fence, outcome="succeeded", result=note["result"])
        restored = self._begun(hold, line, terms, workspace, was_begun=ours and not note.get("result"))
        for warning in restored.warnings:
            log.warning("dispatch=%s %s", hold.claim.dispatch_id, warning)
        result = {
            "content_id": restored.content_id,
            "files": restored.files,
            "logical_bytes": restored.logical_bytes,
            "fetched_bytes": restored.fetched_bytes,
            "seconds": round(restored.seconds, 3),
        }
        write_json(self._note, {**wanted, "content_id": restored.content_id, "result": result})
        return FinishPost(fence=hold.claim.fence, outcome="succeeded", result=result)

    def _begun(
        self, hold: Hold, line: Line, terms: SnapshotTerms, workspace: Path, *, was_begun: bool
    ) -> Restored:
        """The note "begun" is on disk only while a restore into an empty workspace is under way, or after a crash."""
        if was_begun and _holds_something(workspace):
            # It was empty when an earlier agent began and died: complete or not, nobody was told. Done again, beside it.
            _put_aside(workspace)
        if not _holds_something(workspace):
            write_json(self._note, {"content_id": terms.content_id, "workspace": os.fspath(workspace)})
        try:
            return self._once(hold, line, terms, workspace)
        except BaseException:
            self._note.unlink(missing_ok=True)
            raise

    def _once(self, hold: Hold, line: Line, terms: SnapshotTerms, workspace: Path) -> Restored:
        with Teller(self._client, hold) as teller:
            return restore(
                workspace,
                remote=line.remote(),
                owner_key=terms.owner_key_bytes(),
                root_key=terms.root_key,
                expected_content_id=terms.content_id,
                stat_index=self._stat_index,
                progress=teller.tell,
                cancelled=lambda: hold.halt is not None,
            )


def _concluded(hold: Hold, work: Callable[[], FinishPost]) -> FinishPost | None:
    """What the work says, or what its failure means. A stop that was asked for wins over the errors it causes."""
    try:
        return work()
    except (EngineError, Refused, Unreachable, wire.WireError, OSError) as error:
        match hold.halt:
            case Halt.STAND_DOWN:
                return None
            case Halt.CANCELLED:
                return FinishPost(fence=hold.claim.fence, outcome="cancelled", reason="cancelled")
            case Halt.INTERRUPTED:
                reason = hold.ending.reason if hold.ending else "this worker ends"
                return FinishPost(fence=hold.claim.fence, outcome="interrupted", reason=reason)
            case None:
                if isinstance(error, StandDown):
                    return None
                return _failed(hold, str(error))


def _failed(hold: Hold, reason: str) -> FinishPost:
    log.error("dispatch=%s kind=%s failed: %s", hold.claim.dispatch_id, hold.claim.kind, reason)
    return FinishPost(fence=hold.claim.fence, outcome="failed", reason=reason)


def commit_of(fence: int, taken: Taken) -> wire.CommitPost:
    """What a take came to, as it is committed."""
    return wire.CommitPost(
        fence=fence,
        root_key=taken.root_key,
        root_sha256=taken.root_sha256,
        root_length=taken.root_length,
        content_id=taken.content_id,
        entries=taken.entries,
        files=taken.files,
        logical_bytes=taken.logical_bytes,
        stored_bytes=taken.stored_bytes,
        referenced_bytes=taken.referenced_bytes,
        new_packs=taken.new_packs,
        new_objects=tuple(PutWish(key=o.key, length=o.length, sha256=o.sha256) for o in taken.new_objects),
        warnings=taken.warnings,
        seconds=round(taken.seconds, 3),
    )


def parent_of(remote: PresignedRemote, terms: SnapshotTerms, owner_key: bytes) -> Manifest | None:
    """Without its parent a snapshot is as good, only bigger: whatever is wrong with it is a reason to go without."""
    if terms.parent_root_key is None:
        return None
    try:
        return load_manifest(remote, root_key=terms.parent_root_key, owner_key=owner_key)
    except Cancelled:
        raise
    except EngineError as error:
        log.warning("snapshot=%s taken whole, its parent cannot be read: %s", terms.snapshot_id, error)
        return None


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _put_aside(workspace: Path) -> None:
    """Renamed, never removed: what lies there may be somebody's."""
    aside = workspace.with_name(f"{workspace.name}.unfinished-{secrets.token_hex(4)}")
    workspace.rename(aside)
    log.warning("workspace of an unfinished restore put aside as %s", aside.name)
