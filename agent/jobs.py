"""Jobs and commands: a child process, its output, its end."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from agent import runner, wire
from agent.backoff import Backoff
from agent.checkpoints import Checkpoints, NotRestored, keeps_checkpoints
from agent.client import Client, StandDown
from agent.draining import Owed
from agent.hold import Halt, Hold
from agent.job_ends import finish_with
from agent.job_folder import start_folder
from agent.journal import Entry, Journal
from agent.leftovers import old_forget, others_forget, owner_note
from agent.logs import LogShipper
from agent.redact import redact
from agent.runner import Command, Ended, Run, WorkRefused
from agent.session import boot_clock_s
from agent.wire import FinishPost

log = logging.getLogger("agent.jobs")

LOOK_EVERY_S = 0.05
LEFTOVER_GRACE_S = 2.0
PREPARED_WITHIN_S = 2 * 3_600.0
"""For what a job is given: its checkpoint restored, its files fetched. Its own time limit counts from its command's start."""

BY_SIGNAL = {128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM)}
"""Exit codes of what a machine that is shut down ends, with its agent or a moment before it."""
ENDING_WITHIN_S, ENDING_WITHIN_OTHER_S = 1.5, 0.25
"""How long one that died by a signal, or failed in another way, waits to learn that its agent was told to end as well."""


class JobKeeper:
    """Runs children for the dispatcher. Safe to use from several threads, one per dispatch."""

    def __init__(
        self,
        *,
        client: Client,
        journal: Journal,
        jobs_dir: Path,
        workspace: Path | None,
        environ: Mapping[str, str],
        own_env: Mapping[str, str],
        backoff_cap_s: float,
        ends_now: Callable[[], bool] = lambda: False,
    ) -> None:
        """ends_now: whether the session is too near its end for what `owed` says; the holds are told of it right after."""
        self._client = client
        self._ends_now = ends_now
        self._journal = journal
        self._jobs_dir = jobs_dir
        self._workspace = workspace
        self._environ = environ
        self._own_env = own_env
        self._backoff_cap_s = backoff_cap_s
        self._lock = threading.Lock()
        self._working: set[str] = set()
        self._owed: dict[str, Callable[[], Owed]] = {}
        self._shippers: dict[str, LogShipper] = {}
        self._services: list[Run] = []

    def is_working(self) -> bool:
        """Does the child of any job or command run now?"""
        return bool(self._working)

    def owed(self) -> list[Owed]:
        """What the end of each child that runs, or is about to, may take."""
        with self._lock:
            return [owed() for owed in self._owed.values()]

    def is_under_way(self, dispatch_id: str) -> bool:
        return runner.find(self._folder(dispatch_id)) is not None

    def run(self, hold: Hold, entry: Entry) -> FinishPost | None:
        """Start the child, or take up the one that an earlier agent started, and stay with it until it has ended.

        None: stood down; nothing of it runs any more and nothing is to be reported. Raises OSError where this
        machine cannot start anything (no room, no folder): that is not the work's fault.
        """
        claim = hold.claim
        try:
            command = Command.from_work(claim.work)
            kept = self._checkpoints(hold) if keeps_checkpoints(claim) else None
        except WorkRefused as error:
            return FinishPost(fence=claim.fence, outcome="failed", reason=str(error))
        with self._owing(claim.dispatch_id, command, kept):
            return self._run(hold, entry, command, kept)

    def _run(self, hold: Hold, entry: Entry, command: Command, kept: Checkpoints | None) -> FinishPost | None:
        claim = hold.claim
        try:
            run = self._begun(hold, command, kept)
        except NotRestored as error:
            return error.finish if hold.halt is None else _not_started(hold)
        except StandDown:
            return None
        except WorkRefused as error:
            return FinishPost(fence=claim.fence, outcome="failed", reason=str(error))
        if run is None:
            return _not_started(hold)
        # Not before the start: a crash of this process alone loses no written line, one of the machine ends the child too.
        with contextlib.suppress(OSError):
            self._journal.sync()
        shipper = self._ship(hold, run.log)
        with self._lock:
            self._working.add(claim.dispatch_id)
            self._shippers[claim.dispatch_id] = shipper
        if kept is not None:
            kept.watch()
        try:
            finish = self._stay(hold, entry, command=command, run=run, shipper=shipper, kept=kept)
            if finish is not None and claim.work.get("artifacts") and finish.outcome != "interrupted":
                finish = self._keep_artifacts(hold, finish, command=command, shipper=shipper, kept=kept)
        except Exception:
            run.end(grace_left_s=_grace(LEFTOVER_GRACE_S))
            raise
        finally:
            if kept is not None:
                kept.end()
            with self._lock:
                self._working.discard(claim.dispatch_id)
        if finish is None:
            shipper.abandon()
            self._shippers.pop(claim.dispatch_id, None)
        elif kept is not None and finish.outcome == "interrupted" and "artifacts" in finish.result:
            # Cut short while its files went up: it goes on elsewhere, from what it has done here.
            kept.last()
        return finish

    def _begun(self, hold: Hold, command: Command, kept: Checkpoints | None) -> Run | None:
        """The child, found or started; None where it must not start any more. With checkpoints its folder is what the
        newest one holds before anything starts in it; otherwise NotRestored or StandDown."""
        claim = hold.claim
        folder = self._folder(claim.dispatch_id)
        run = runner.find(folder)
        if run is not None:
            log.info("dispatch=%s found running pid=%d", claim.dispatch_id, run.pid)
            return run
        if claim.kind == "job" and self._ends_now():
            hold.wake.wait(ENDING_WITHIN_S)
        if hold.halt is not None:
            return None
        runner.clear(folder)
        if claim.kind == "job":
            held = {known.dispatch_id for known in self._journal.open_entries()}
            others_forget(self._jobs_dir, claim.work.get("owner"), held=held)
            owner_note(folder, claim.work.get("owner"))
        until_s = time.monotonic() + PREPARED_WITHIN_S

        def stopped() -> bool:
            return hold.halt is not None or time.monotonic() >= until_s

        own = self._variables(claim)
        own |= kept.restore(stopped) if kept is not None else {}
        if hold.halt is not None:
            return None
        cwd = self._cwd(claim, kept)
        # What was restored holds what the job has made of its files since it was given them.
        given = claim.work.get("files") and "DORMOUSE_RESTORED_FROM" not in own
        if given and not self._lay_out(hold, cwd, stopped):
            if hold.halt is not None:
                return None
            reason = f"its files were not all here within {PREPARED_WITHIN_S / 3600:g} h"
            raise NotRestored(FinishPost(fence=claim.fence, outcome="interrupted", reason=reason))
        run = runner.start(command, folder=folder, cwd=cwd, environ=self._environ, own=own)
        log.info("dispatch=%s started kind=%s pid=%d", claim.dispatch_id, claim.kind, run.pid)
        return run

    def deliver(self, hold: Hold) -> None:
        """Bring the output that the control plane does not have yet to it, for as long as a report may be made."""
        with self._lock:
            shipper = self._shippers.pop(hold.claim.dispatch_id, None)
        if shipper is None:
            path = self._folder(hold.claim.dispatch_id) / "log"
            if not path.exists():
                return
            shipper = self._ship(hold, path)
        shipper.complete()
        while shipper.is_alive() and hold.may_report():
            shipper.join(0.05)
        shipper.abandon()
        if shipper.stood_down.is_set():
            hold.supersede()

    def last_output(self, hold: Hold) -> tuple[str, int]:
        """The end of what the child wrote, and how much it wrote in all."""
        try:
            with open(self._folder(hold.claim.dispatch_id) / "log", "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - wire.OUTPUT_TAIL_BYTES))
                return file.read(wire.OUTPUT_TAIL_BYTES).decode("utf-8", "replace"), size
        except OSError:
            return "", 0

    def tidy(self, dispatch_id: str) -> None:
        """The control plane has everything: keep only the working folder, and of these only the newest."""
        folder = self._folder(dispatch_id)
        if not folder.is_dir():
            return
        run = runner.find(folder)
        if run is not None and run.has_members():
            with self._lock:
                self._services.append(run)
            return
        if not _holds_files(folder / "work"):
            shutil.rmtree(folder, ignore_errors=True)
            return
        for name in ("log", "script", "exit", "mark", "started", "verdict", "pid", "stat-index"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        old_forget(self._jobs_dir)

    def tidy_after_restart(self) -> None:
        """Folders of dispatches that are closed: services that still run are kept in sight, the rest goes."""
        if not self._jobs_dir.is_dir():
            return
        known = {entry.dispatch_id for entry in self._journal.open_entries()}
        for folder in self._jobs_dir.iterdir():
            if folder.name not in known and (folder / "pid").exists():
                self.tidy(folder.name)

    def end_services(self) -> None:
        """What commands left running in the background ends with the agent."""
        with self._lock:
            services, self._services = self._services, []
        for run in services:
            log.info("service pid=%d ended with the agent", run.pid)
            run.end(grace_left_s=_grace(LEFTOVER_GRACE_S))

    # -- one child --------------------------------------------------------------------------------

    def _stay(
        self,
        hold: Hold,
        entry: Entry,
        *,
        command: Command,
        run: Run,
        shipper: LogShipper,
        kept: Checkpoints | None,
    ) -> FinishPost | None:
        began_s = run.started_s if run.started_s is not None else entry.claimed_s
        deadline_s = began_s + command.timeout_s if command.timeout_s is not None else None
        if (decided := run.decided()) is not None:
            return self._stop(hold, command, run, kept, *decided)
        if run.was_found and (ended := run.poll()) is not None and ended.exit_code in BY_SIGNAL:
            reason = f"{ended.reason()} while its agent was away"
            return self._stop(hold, command, run, kept, "interrupted", reason)
        while True:
            if shipper.stood_down.is_set():
                hold.supersede()
            ended = run.poll()
            if ended is not None:
                if _fell_with_agent(hold, ended):
                    return self._halted(hold, command, run, kept)
                return self._ended(hold, ended, run)
            if hold.halt is not None:
                return self._halted(hold, command, run, kept)
            if deadline_s is not None and boot_clock_s() >= deadline_s:
                return self._timed_out(hold, command, run, kept)
            hold.wake.wait(LOOK_EVERY_S)

    def _ended(self, hold: Hold, ended: Ended, run: Run) -> FinishPost:
        # A command may leave a service behind (that is what "on wake" is for); a job may not leave a GPU occupied.
        if hold.claim.kind == "job":
            run.end(grace_left_s=_grace(LEFTOVER_GRACE_S))
        outcome = (
            "succeeded" if ended.exit_code == 0 else "interrupted" if ended.exit_code is None else "failed"
        )
        log.info(
            "dispatch=%s ended outcome=%s exit_code=%s", hold.claim.dispatch_id, outcome, ended.exit_code
        )
        return FinishPost(
            fence=hold.claim.fence, outcome=outcome, exit_code=ended.exit_code, reason=ended.reason()
        )

    def _halted(self, hold: Hold, command: Command, run: Run, kept: Checkpoints | None) -> FinishPost | None:
        match hold.halt:
            case Halt.CANCELLED:
                return self._stop(hold, command, run, kept, "cancelled", "cancelled")
            case Halt.INTERRUPTED:
                reason = hold.ending.reason if hold.ending else "this worker ends"
                return self._stop(hold, command, run, kept, "interrupted", reason)
            case _:
                return _stood_down(hold, run, gone=self._kill(hold, command, run))

    def _timed_out(
        self, hold: Hold, command: Command, run: Run, kept: Checkpoints | None
    ) -> FinishPost | None:
        return self._stop(hold, command, run, kept, "failed", f"timed out after {command.timeout_s:g} s")

    def _stop(
        self, hold: Hold, command: Command, run: Run, kept: Checkpoints | None, outcome: str, reason: str
    ) -> FinishPost | None:
        """End the run; of one that runs again elsewhere, keep the folder as it left it. None: nobody wants to hear of it."""
        run.decide(outcome, reason)
        gone = self._kill(hold, command, run)
        if kept is not None:
            kept.end()
        if hold.halt is Halt.STAND_DOWN:
            return _stood_down(hold, run, gone=gone)
        if kept is not None and outcome == "interrupted":
            kept.last()
        # Nothing else that is ended here has failed.
        timed_out_s = command.timeout_s if outcome == "failed" else None
        return _finish(hold, outcome, reason, run, gone=gone, timed_out_s=timed_out_s)

    def _kill(self, hold: Hold, command: Command, run: Run) -> bool:
        since_s = time.monotonic()
        return run.end(grace_left_s=lambda: hold.grace_left_s(own_grace_s=command.grace_s, since_s=since_s))

    # -- files ------------------------------------------------------------------------------------

    # The engine is loaded by the first job that has files, not by every start.

    def _lay_out(self, hold: Hold, cwd: Path, stopped: Callable[[], bool]) -> bool:
        from agent.job_files import lay_out

        return lay_out(self._client, hold, cwd, stopped=stopped, backoff_cap_s=self._backoff_cap_s)

    def _keep_artifacts(
        self,
        hold: Hold,
        finish: FinishPost,
        *,
        command: Command,
        shipper: LogShipper,
        kept: Checkpoints | None,
    ) -> FinishPost | None:
        from agent.artifacts import Outcome, keep_artifacts

        try:
            outcome = keep_artifacts(
                self._client,
                hold,
                self._cwd(hold.claim, kept),
                stood_down=shipper.stood_down.is_set,
                hurried=finish.outcome == "cancelled" or finish.timed_out_s is not None,
                grace_s=command.grace_s,
                backoff_cap_s=self._backoff_cap_s,
            )
        except Exception as error:
            # The command has ended, and how it did stands: it is not run again for what became of its files.
            log.exception("dispatch=%s artifacts not kept", hold.claim.dispatch_id)
            outcome = Outcome(failed=[("", redact(str(error)) or type(error).__name__)])
        return finish_with(hold, finish, outcome)

    # -- helpers ----------------------------------------------------------------------------------

    def _checkpoints(self, hold: Hold) -> Checkpoints:
        folder = self._folder(hold.claim.dispatch_id)
        return Checkpoints(client=self._client, hold=hold, folder=folder, backoff_cap_s=self._backoff_cap_s)

    @contextlib.contextmanager
    def _owing(self, dispatch_id: str, command: Command, kept: Checkpoints | None) -> Iterator[None]:
        def owed() -> Owed:
            return Owed(grace_s=command.grace_s, checkpoint_s=kept.expected_s if kept is not None else 0.0)

        with self._lock:
            self._owed[dispatch_id] = owed
        try:
            yield
        finally:
            with self._lock:
                self._owed.pop(dispatch_id, None)

    def _folder(self, dispatch_id: str) -> Path:
        return self._jobs_dir / dispatch_id

    def _cwd(self, claim: wire.Claimed, kept: Checkpoints | None) -> Path:
        """Where the command runs: in the workspace where there is one, but for a job whose folder is checkpointed."""
        own = self._folder(claim.dispatch_id) / "work"
        base = own if kept is not None or self._workspace is None else self._workspace
        return start_folder(base, claim.work.get("workdir"))

    def _ship(self, hold: Hold, path: Path) -> LogShipper:
        shipper = LogShipper(
            client=self._client,
            dispatch_id=hold.claim.dispatch_id,
            fence=hold.claim.fence,
            path=path,
            backoff=Backoff(cap_s=self._backoff_cap_s),
        )
        shipper.start()
        return shipper

    def _variables(self, claim: wire.Claimed) -> dict[str, str]:
        return {
            **self._own_env,
            "DORMOUSE_DISPATCH_ID": claim.dispatch_id,
            "DORMOUSE_JOB_ID": str(claim.work.get("job_id") or claim.dispatch_id),
            "DORMOUSE_ATTEMPT": str(claim.work.get("attempt") or claim.fence),
            **_array_variables(claim.work.get("array")),
        }


def _fell_with_agent(hold: Hold, ended: Ended) -> bool:
    """Whether its failure is the agent's own end: a machine that is shut down tells both at once, and the job is faster."""
    if not ended.exit_code or hold.halt not in (None, Halt.INTERRUPTED):
        return False
    hold.wake.wait(ENDING_WITHIN_S if ended.exit_code in BY_SIGNAL else ENDING_WITHIN_OTHER_S)
    return hold.halt is Halt.INTERRUPTED


def _array_variables(array: object) -> dict[str, str]:
    """What tells the jobs of an array apart; nothing for a job of none."""
    if not isinstance(array, dict):
        return {}
    return {
        "DORMOUSE_ARRAY_INDEX": str(wire.whole(array, "index", required=True)),
        "DORMOUSE_ARRAY_COUNT": str(wire.whole(array, "count", required=True)),
    }


def _not_started(hold: Hold) -> FinishPost | None:
    match hold.halt:
        case Halt.CANCELLED:
            return FinishPost(
                fence=hold.claim.fence, outcome="cancelled", reason="cancelled before it started"
            )
        case Halt.INTERRUPTED:
            reason = hold.ending.reason if hold.ending else "this worker ends"
            result = {**_why_interrupted(hold), wire.NOT_STARTED: True}
            return FinishPost(fence=hold.claim.fence, outcome="interrupted", reason=reason, result=result)
        case _:
            return None


def _stood_down(hold: Hold, run: Run, *, gone: bool) -> FinishPost | None:
    """What is left to say of an attempt that is over: it is kept to be looked at, unless nobody listens to this box."""
    log.info("dispatch=%s stood down, processes gone=%s", hold.claim.dispatch_id, gone)
    if hold.ending is not None and hold.ending.silent:
        return None
    return _finish(hold, "interrupted", "stood down: this attempt was over while it ran", run, gone=gone)


def _finish(
    hold: Hold, outcome: str, reason: str, run: Run, *, gone: bool, timed_out_s: float | None = None
) -> FinishPost:
    ended = run.poll()
    log.info(
        "dispatch=%s ended outcome=%s reason=%r processes_gone=%s",
        hold.claim.dispatch_id,
        outcome,
        reason,
        gone,
    )
    return FinishPost(
        fence=hold.claim.fence,
        outcome=outcome,
        exit_code=ended.exit_code if ended else None,
        timed_out_s=timed_out_s,
        reason=reason if gone else f"{reason}; some of its processes cannot be killed",
        result=_why_interrupted(hold) if outcome == "interrupted" else {},
    )


def _why_interrupted(hold: Hold) -> dict[str, bool]:
    """So that the job is not given to this very worker again, whose next status post has not been read yet."""
    return {wire.WORKER_ENDS: True} if hold.ending is not None else {}


def _grace(seconds: float) -> runner.GraceLeft:
    until_s = time.monotonic() + seconds
    return lambda: until_s - time.monotonic()


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())
