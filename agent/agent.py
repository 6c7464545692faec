"""The agent as a whole: its parts, the order in which they start, and the order in which they end."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from agent.backoff import Backoff
from agent.client import Client, Http, Unreachable
from agent.dead_man import DeadMan
from agent.dispatcher import Dispatcher, Work
from agent.draining import near_end
from agent.errors import ENDED_AS_ASKED, EnrolmentRefused, NotEnrolledInTime, UsageError
from agent.files import FolderLock
from agent.health import HealthServer, health
from agent.identity import Identity, Keyring, check_same_place, enrol, load
from agent.jobs import JobKeeper
from agent.journal import Journal
from agent.loop import GOODBYE_S, StatusLoop
from agent.own_box import OwnBox, own_box
from agent.probes import probe_for
from agent.readings import Machine
from agent.saved import Saved
from agent.session import (
    SESSION_FILE,
    Ending,
    EndingRequests,
    SessionClock,
    limit_keep,
    limit_kept,
    limit_reached,
)
from agent.settings import Options
from agent.wire import AgentSettings, Credentials

log = logging.getLogger("agent")

LOCK_PATIENCE_S = 12.0
LOOK_AT_LIMIT_EVERY_S = 0.25
LONGEST_GOODBYE_S = 30.0
WORKER_AGAIN_S = 1.0

OF_WEEK = "the end of the account's week, at a session's runtime"

GIVEN_BACK = ("colab", "kaggle")
"""Providers whose machine goes with the agent (agent/cell.py): its disk, and the journal on it, are gone then."""


class Agent:
    """One process's worth of agent. The main thread runs Celery's worker; every other part has a thread of its own."""

    def __init__(self, options: Options, *, environ: Mapping[str, str]) -> None:
        self._options = options
        self._environ = environ
        self._state_dir = _prepared(options.state_dir)
        self._requests = EndingRequests()
        self._settings = AgentSettings()
        self._epoch = 0
        self._ending: Ending | None = None
        self._ended = threading.Event()
        self._is_working: Callable[[], bool] = lambda: False
        self._ends_now: Callable[[], bool] = lambda: False
        self._restart_worker: Callable[[], None] = lambda: None
        self._probe = probe_for(
            options.probe, state_dir=self._state_dir, is_working=lambda: self._is_working()
        )

    def run(self) -> int:
        """Until told to end; the exit code. Raises AgentError, or Interrupted where nothing was begun yet."""
        self._requests.install()
        with self._requests.interruptible():
            FolderLock(self._state_dir).take(patience_s=LOCK_PATIENCE_S)
            identity, credentials = self._join()
        self._epoch = identity.epoch
        # The limit holds also for an agent that is started again while nobody can tell it.
        self._settings = AgentSettings(max_session_hours=limit_kept(self._state_dir, epoch=identity.epoch))
        clock = SessionClock(
            path=self._state_dir / SESSION_FILE, epoch=identity.epoch, started=self._options.session_started
        )
        client = self._client(identity, credentials)
        journal = Journal(self._state_dir / "journal", epoch=identity.epoch)
        jobs = self._job_keeper(client, journal, identity)
        own = own_box(os.environ, provider=self._options.provider)
        # Only a box that can end itself needs to know whether all of it is saved: looking costs a walk through the tree.
        saved = Saved(self._state_dir, self._options.workspace if own else None)
        dispatcher = Dispatcher(
            client=client,
            journal=journal,
            work_for=_works(jobs, client, self._options, saved),
            backoff_cap_s=self._options.backoff_cap_s,
        )
        dead_man = self._dead_man(own, saved, dispatcher)
        status = self._status_loop(client, identity, clock, dispatcher, dead_man)
        self._ends_now = lambda: self._limit_end(clock, jobs, status) is not None
        server = HealthServer(
            port=self._options.health_port,
            state_dir=self._state_dir,
            report=lambda: self._health(status, dispatcher, clock),
        )
        dispatcher.recover()
        status.start()
        server.start()
        jobs.tidy_after_restart()
        threading.Thread(
            target=self._watch, args=(clock, status, dispatcher, jobs), name="session", daemon=True
        ).start()
        self._consume(client, identity, status, dispatcher)
        self._ended.wait()
        server.stop()
        if self._ending is not None and self._ending.silent and dead_man.is_armed:
            self._requests.forget()
            dead_man.outlive(is_idle=status.looks_alone, stopped=lambda s: self._requests.wait(s) is not None)
        return self._conclude(identity)

    # -- beginning --------------------------------------------------------------------------------

    def _join(self) -> tuple[Identity, Credentials | None]:
        """The identity on disk, or a new one for the token. Waits for a control plane that is away: for ever, or for
        `enrol_within_s`; then NotEnrolledInTime."""
        known = load(self._state_dir)
        if known is not None:
            check_same_place(known, url=self._options.url, state_dir=self._state_dir)
            log.info("worker=%s epoch=%d known url=%s", known.worker_id, known.epoch, known.url)
            return known, None
        if self._options.url is None:
            raise UsageError(f"{self._state_dir} holds no identity yet", hint="join with --join URL TOKEN")
        if self._options.token is None:
            raise EnrolmentRefused(
                f"{self._state_dir} holds no identity yet, and there is no token",
                hint="join with --join URL TOKEN, or set DORMOUSE_JOIN_TOKEN",
            )
        http = Http(self._options.url)
        backoff = Backoff(cap_s=self._options.backoff_cap_s)
        within_s = self._options.enrol_within_s
        give_up_s = time.monotonic() + within_s if within_s is not None else float("inf")
        while True:
            try:
                return enrol(
                    http=http,
                    token=self._options.token,
                    name=self._options.name,
                    provider=self._options.provider,
                    state_dir=self._state_dir,
                    gpus=self._probe.read(),
                    session_runtime_hours=_hours_since(self._options.session_started),
                )
            except Unreachable as error:
                left_s = give_up_s - time.monotonic()
                if left_s <= 0:
                    raise NotEnrolledInTime(
                        f"{self._options.url} let nobody enrol for {within_s:g} s: {error}",
                        hint="see that the server runs and can be reached from here, then start again",
                    ) from error
                wait_s = min(left_s, backoff.next_s(retry_after_s=error.retry_after_s))
                log.warning("cannot enrol yet, again in %.1f s: %s", wait_s, error)
                time.sleep(wait_s)

    def _client(self, identity: Identity, credentials: Credentials | None) -> Client:
        http = Http(identity.url)
        keyring = Keyring(
            http=http,
            identity=identity,
            state_dir=self._state_dir,
            on_settings=self._apply,
            on_refused=self._requests.refuse,
        )
        if credentials is not None:
            keyring.accept(credentials)
        return Client(http, keyring)

    def _job_keeper(self, client: Client, journal: Journal, identity: Identity) -> JobKeeper:
        own_env = {"DORMOUSE_WORKER_ID": identity.worker_id}
        if identity.instance_id:
            own_env["DORMOUSE_INSTANCE_ID"] = identity.instance_id
        if self._options.workspace:
            own_env["DORMOUSE_WORKSPACE"] = str(self._options.workspace)
        jobs = JobKeeper(
            client=client,
            journal=journal,
            jobs_dir=self._state_dir / "jobs",
            workspace=self._options.workspace,
            environ=self._environ,
            own_env=own_env,
            backoff_cap_s=self._options.backoff_cap_s,
            ends_now=lambda: self._ends_now(),
        )
        self._is_working = jobs.is_working
        return jobs

    def _dead_man(self, own: OwnBox | None, saved: Saved, dispatcher: Dispatcher) -> DeadMan:
        def at_rest() -> bool:
            dispatcher.draining = True  # until the control plane speaks again
            return not dispatcher.held()

        return DeadMan(
            own=own,
            saved=saved,
            minutes=lambda: self._settings.dead_man_minutes,
            at_rest=at_rest,
        )

    def _status_loop(
        self,
        client: Client,
        identity: Identity,
        clock: SessionClock,
        dispatcher: Dispatcher,
        dead_man: DeadMan,
    ) -> StatusLoop:
        return StatusLoop(
            client=client,
            identity=identity,
            clock=clock,
            probe=self._probe,
            machine=Machine(self._options.workspace or self._state_dir),
            dispatcher=dispatcher,
            dead_man=dead_man,
            is_draining=lambda: self._ending is not None and not self._ending.silent,
            max_session_hours=lambda: self._settings.max_session_hours,
            health_url=self._options.health_url,
            on_superseded=self._requests.refuse,
            backoff_cap_s=self._options.backoff_cap_s,
        )

    # -- going on ---------------------------------------------------------------------------------

    def _consume(
        self, client: Client, identity: Identity, status: StatusLoop, dispatcher: Dispatcher
    ) -> None:
        """Celery's worker in the main thread, until the agent ends; anew if the transport changes or it gives up."""
        # Not before now: the first status need not wait for half a second of imports.
        from agent.doorbells import Doorbells

        doorbells = Doorbells(
            client=client,
            worker_id=identity.worker_id,
            requests=self._requests,
            on_dispatch=dispatcher.ring,
            on_status=status.post_now,
            backoff_cap_s=self._options.backoff_cap_s,
        )
        self._requests.on_signal(doorbells.stop_soon)
        self._restart_worker = doorbells.stop_soon
        while not self._requests.asked:
            settings = self._settings.transport
            doorbells.listen(settings)
            if not self._requests.asked and settings == self._settings.transport:
                log.error(
                    "worker=%s celery's worker ended by itself, again in %.0f s",
                    identity.worker_id,
                    WORKER_AGAIN_S,
                )
                time.sleep(WORKER_AGAIN_S)

    def _apply(self, settings: AgentSettings) -> None:
        """With every token the control plane may decide anew."""
        before, self._settings = self._settings, settings
        if before.max_session_hours != settings.max_session_hours:
            limit_keep(self._state_dir, epoch=self._epoch, hours=settings.max_session_hours)
        if before.transport != settings.transport:
            self._restart_worker()

    def _health(self, status: StatusLoop, dispatcher: Dispatcher, clock: SessionClock) -> dict[str, object]:
        seen = status.seen
        word = "ending" if self._ending else "draining" if dispatcher.draining else seen.status
        return health(
            status=word,
            runtime_hours=clock.runtime_hours(),
            max_hours=self._settings.max_session_hours,
            gpu=seen.gpu_name,
            provider=self._options.provider,
            now=datetime.now(UTC),
        )

    # -- ending -----------------------------------------------------------------------------------

    def _watch(
        self, clock: SessionClock, status: StatusLoop, dispatcher: Dispatcher, jobs: JobKeeper
    ) -> None:
        """Wait for a reason to end, or for the session's limit; then end everything that runs here."""
        try:
            while self._ending is None:
                near = self._limit_end(clock, jobs, status)
                if near is not None:
                    self._requests.end(near)
                self._ending = self._requests.wait(LOOK_AT_LIMIT_EVERY_S)
            log.info("ending reason=%r", self._ending.reason)
            if self._ending.silent:
                status.stop()
            else:
                status.post_now()
            # It posts until the last child has ended: their grace may be longer than its silence may last.
            dispatcher.end(self._ending)
            jobs.end_services()
            # What is not reported yet is for the next start. Whoever was told that this is the end would not wait for it.
            # A machine that is given back has no next start: nobody should wait for what it owes.
            goodbye_s = min(LONGEST_GOODBYE_S, self._ending.report_s / 2)
            comes_again = self._options.provider not in GIVEN_BACK and dispatcher.owes_reports()
            mute = self._ending.silent or comes_again
            status.stop(last_words_s=0.0 if mute else max(GOODBYE_S, goodbye_s))
            status.join(max(GOODBYE_S, goodbye_s))
        finally:
            self._ended.set()

    def _limit_end(self, clock: SessionClock, jobs: JobKeeper, status: StatusLoop) -> Ending | None:
        """The end, if it must begin now: what runs must have ended, its checkpoints be taken, before the session is over."""
        limits = [(self._settings.max_session_hours, "the session's limit"), (status.end_by_hours, OF_WEEK)]
        known = [(hours, what) for hours, what in limits if hours is not None]
        if not known:
            return None
        limit_hours, what = min(known)
        # A week may be over at once, by what the provider itself counts: what runs has its grace all the same.
        if clock.runtime_hours() >= limit_hours:
            return limit_reached(limit_hours, what=what)
        return near_end(jobs.owed(), runtime_s=clock.runtime_s(), limit_s=3600 * limit_hours, what=what)

    def _conclude(self, identity: Identity) -> int:
        ending = self._ending
        if ending is None:
            return ENDED_AS_ASKED
        log.info("worker=%s ended reason=%r", identity.worker_id, ending.reason)
        if ending.exit_code != ENDED_AS_ASKED:
            print(f"dormouse-agent: {ending.reason}", file=sys.stderr)
        return ending.exit_code


def _works(jobs: JobKeeper, client: Client, options: Options, saved: Saved) -> Callable[[str], Work]:
    """Kind → who does it."""

    def work_for(kind: str) -> Work:
        if kind in ("job", "command"):
            return jobs
        # The engine with its compressors is loaded by the first snapshot, not by every start.
        from agent.snapshotting import RestoreWork, SnapshotWork

        if kind == "snapshot":
            return SnapshotWork(
                client=client,
                workspace=options.workspace,
                saved=saved,
                state_dir=options.state_dir,
                backoff_cap_s=options.backoff_cap_s,
            )
        return RestoreWork(
            client=client,
            workspace=options.workspace,
            state_dir=options.state_dir,
            backoff_cap_s=options.backoff_cap_s,
        )

    return work_for


def _prepared(state_dir: Path) -> Path:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = state_dir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"{state_dir} cannot be written: {error}", hint="give another --state-dir"
        ) from error
    return state_dir


def _hours_since(started: datetime | None) -> float:
    return max(0.0, (datetime.now(UTC) - started).total_seconds() / 3600) if started else 0.0
