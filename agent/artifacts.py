"""Files that a job leaves and that are kept: found by its globs when it has ended, uploaded in pieces, reported."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import wire
from agent.client import Client, Refused
from agent.hold import Halt, Hold
from agent.job_objects import JobLine
from agent.redact import redact
from snapshots.engine.beneath import Beneath
from snapshots.engine.errors import Cancelled, EngineError
from snapshots.engine.remote import ObjectPlan, PresignedRemote
from snapshots.engine.store.base import StoreBusy

log = logging.getLogger("agent.artifacts")

STREAMS = 2
"""Each holds one piece in memory."""
LOOK_EVERY_S = 0.05
REPORT_EVERY_S = 2.0
LEFT_OUT_TOLD = 20


@dataclass
class Outcome:
    """What became of it. failed: files that should have been kept and could not be; stopped: it was cut short;
    unsent: those that it was cut short before."""

    files: int = 0
    bytes: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    unsent: list[str] = field(default_factory=list)
    stopped: bool = False

    def as_result(self) -> dict[str, Any]:
        """For the report."""
        told = [*self.failed, *((path, "its upload was cut short") for path in self.unsent), *self.left_out]
        shown = [{"path": path[: wire.PATH_CHARS], "why": why[:200]} for path, why in told[:LEFT_OUT_TOLD]]
        return {"files": self.files, "bytes": self.bytes, "left_out": shown, "left_out_count": len(told)}


def keep_artifacts(
    client: Client,
    hold: Hold,
    folder: Path,
    *,
    stood_down: Callable[[], bool],
    hurried: bool,
    grace_s: float,
    backoff_cap_s: float,
) -> Outcome:
    """Upload and report what matches in `folder`. hurried: at most grace_s; otherwise only once it is to stop."""
    keep = wire.Keep.from_json(hold.claim.work.get("artifacts"))
    since_s = time.monotonic() if hurried else None

    def stopped() -> bool:
        nonlocal since_s
        if stood_down():
            hold.supersede()
        if hold.halt is Halt.STAND_DOWN:
            return True
        if since_s is None:
            if hold.halt is None:
                return False
            since_s = time.monotonic()
        return hold.grace_left_s(own_grace_s=grace_s, since_s=since_s) <= 0

    outcome = Outcome()
    line = JobLine(client, hold, stopped=stopped, backoff_cap_s=backoff_cap_s)
    found = list(_chosen(folder, keep, outcome))
    if found:
        Upload(line, folder, keep, outcome, fence=hold.claim.fence, stopped=stopped).run(found)
    log.info(
        "dispatch=%s artifacts files=%d bytes=%d left_out=%d failed=%d stopped=%s",
        hold.claim.dispatch_id,
        outcome.files,
        outcome.bytes,
        len(outcome.left_out),
        len(outcome.failed),
        outcome.stopped,
    )
    return outcome


# -- which ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """path: as it is called; real: where its bytes are, relative to the folder as well."""

    path: str
    real: str
    length: int


def _chosen(folder: Path, keep: wire.Keep, outcome: Outcome) -> Iterator[Found]:
    """What matches, within the bounds, by path. What is left out is told with the reason."""
    total = count = 0
    for path, real, why in sorted(_matching(folder, keep.globs)):
        length = 0
        if not why:
            try:
                length = (folder / real).stat().st_size
            except OSError as error:
                why = f"it cannot be read: {error.strerror}"
        if not why:
            if count >= keep.files_at_most:
                why = f"more than {keep.files_at_most} files match"
            elif length > keep.file_bytes:
                why = f"it has {length} bytes, at most {keep.file_bytes} are kept of one file"
            elif total + length > keep.total_bytes:
                why = f"with it they would have more than {keep.total_bytes} bytes"
        if why:
            outcome.left_out.append((path, why))
            continue
        total += length
        count += 1
        yield Found(path, real, length)


def _matching(folder: Path, globs: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """(path, where its bytes are, why it cannot be kept or ""). Folders behind links are not looked into; a link to a
    file counts as that file where it is below `folder`, and is left out where it leads elsewhere."""
    root = folder.resolve()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            rows = list(os.scandir(root / below))
        except OSError as error:
            if any(wire.glob_matches(glob, below) for glob in globs):
                yield below, below, f"it cannot be read: {error.strerror}"
            continue
        for row in rows:
            path = f"{below}/{row.name}" if below else row.name
            if row.is_dir(follow_symlinks=False):
                if any(wire.glob_may_lie_below(glob, path) for glob in globs):
                    waiting.append(path)
            elif any(wire.glob_matches(glob, path) for glob in globs):
                yield _one(root, path)


def _one(root: Path, path: str) -> tuple[str, str, str]:
    try:
        wire.check_path(path)
        real = (root / path).resolve(strict=True)
        if not real.is_relative_to(root):
            return path, "", "it is a link that leads out of the folder"
        if not stat.S_ISREG(real.stat().st_mode):
            return path, "", "it is no regular file"
        return path, os.fspath(real.relative_to(root)), ""
    except wire.WireError as error:
        return path.encode("utf-8", "replace").decode(), "", str(error)
    except (OSError, RuntimeError) as error:  # a loop of links is the one or the other
        return path, "", f"it cannot be read: {getattr(error, 'strerror', None) or 'a loop of links'}"


# -- up ---------------------------------------------------------------------------------------------


class Upload:
    """A few threads that upload, this one that reports and gives up in time."""

    def __init__(
        self,
        line: JobLine,
        folder: Path,
        keep: wire.Keep,
        outcome: Outcome,
        *,
        fence: int,
        stopped: Callable[[], bool],
    ) -> None:
        self._line = line
        self._folder = folder
        self._keep = keep
        self._outcome = outcome
        self._fence = fence
        self._stopped = stopped
        self._lock = threading.Lock()
        self._waiting: list[Found] = []
        self._done: list[wire.KeptFile] = []
        self._over = threading.Event()

    def run(self, found: list[Found]) -> None:
        """Every file that was found is reported, failed or unsent in the outcome afterwards, whatever happens to a thread."""
        self._waiting = found[::-1]
        self._open = {one.path for one in found}
        remote = self._line.remote(phase="artifacts")
        # Daemons that nobody joins: a transfer that hangs must hold up neither a cancel nor the agent's end.
        threads = [
            threading.Thread(target=self._work, args=(remote,), name=f"artifacts {number}", daemon=True)
            for number in range(min(STREAMS, len(found)))
        ]
        for thread in threads:
            thread.start()
        try:
            self._watch(threads)
        except Cancelled:
            self._outcome.stopped = True
        except (Refused, wire.WireError) as error:
            self._outcome.failed.append(("", f"the control plane does not take them: {error}"))
        finally:
            self._over.set()
            with self._lock:
                self._outcome.unsent = sorted(self._open)
        if self._outcome.unsent and not (self._outcome.stopped or self._outcome.failed):
            self._outcome.failed.append((self._outcome.unsent.pop(0), "its upload ended without a word"))

    def _watch(self, threads: list[threading.Thread]) -> None:
        told_s = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            if self._stopped():
                self._report()
                raise Cancelled("cut short")
            if time.monotonic() - told_s >= REPORT_EVERY_S:
                self._report()
                told_s = time.monotonic()
            next((one for one in threads if one.is_alive()), threads[0]).join(LOOK_EVERY_S)
        self._report()
        if self._open and self._stopped():
            raise Cancelled("cut short, and seen first by the threads")

    def _report(self) -> None:
        while True:
            with self._lock:
                some = self._done[: wire.ARTIFACTS_PER_POST]
            if not some:
                return
            post = wire.ArtifactsPost(fence=self._fence, artifacts=tuple(some))
            self._line.post("artifacts", wire.to_json(post))
            with self._lock:
                del self._done[: len(some)]
                self._open -= {one.path for one in some}
            self._outcome.files += len(some)
            self._outcome.bytes += sum(one.length for one in some)

    def _work(self, remote: PresignedRemote) -> None:
        while not self._over.is_set():
            with self._lock:
                if not self._waiting:
                    return
                found = self._waiting.pop()
            try:
                kept = self._upload(found, remote)
            except Cancelled:
                return
            except StoreBusy as error:
                # It was waited for as long as anybody may wait: the others need not find that out one by one.
                self._failed(found, redact(str(error)))
                with self._lock:
                    self._waiting.clear()
            except (EngineError, OSError) as error:
                self._failed(found, redact(str(error)))
            except Exception as error:
                # A thread that dies in silence leaves a file behind that nobody misses.
                log.exception("artifact %r: the agent failed", found.path)
                self._failed(found, f"the agent failed: {type(error).__name__}")
            else:
                with self._lock:
                    self._done.append(kept)

    def _failed(self, found: Found, why: str) -> None:
        with self._lock:
            self._outcome.failed.append((found.path, why))
            self._open.discard(found.path)

    def _upload(self, found: Found, remote: PresignedRemote) -> wire.KeptFile:
        """One file, read once: what goes up is what was hashed, also where somebody still writes it."""
        whole, pieces = hashlib.sha256(), []
        length = 0
        root_fd = os.open(self._folder.resolve(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with Beneath(root_fd) as beneath:
                file_fd = beneath.open(os.fsencode(found.real), os.O_RDONLY)
        finally:
            os.close(root_fd)
        with os.fdopen(file_fd, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o777
            while data := file.read(wire.PIECE_BYTES):
                if self._over.is_set():
                    raise Cancelled("cut short")
                digest = hashlib.sha256(data).hexdigest()
                whole.update(data)
                length += len(data)
                if length > self._keep.file_bytes:
                    raise OSError(f"it grew beyond {self._keep.file_bytes} bytes while it was uploaded")
                plan = ObjectPlan(self._keep.key_prefix + digest, len(data), digest)
                remote.put(plan, data)
                pieces.append(wire.PutWish(key=plan.key, length=plan.length, sha256=digest))
        return wire.KeptFile(
            path=found.path, mode=mode, length=length, sha256=whole.hexdigest(), pieces=tuple(pieces)
        )
