"""The machine's session: how long it has run, when it must end, and how the process learns of its end."""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent.errors import ENDED_AS_ASKED, AgentError, Interrupted, Superseded
from agent.files import read_json, write_json

log = logging.getLogger("agent.session")

SESSION_FILE = "session.json"
LIMIT_FILE = "limit.json"
SIGNAL_GRACE_S = 4.0
SIGNAL_REPORT_S = 4.0
SIGNAL_CHECKPOINT_BY_S = 8.0
LIMIT_GRACE_S = 120.0
FORGET_S = 0.5
LIMIT_REPORT_S = 120.0


def boot_id() -> str:
    """Names one boot of this machine. Empty where the system does not say; then only the wall clock is left."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def boot_clock_s() -> float:
    """Seconds on a clock that nobody sets, that goes on while the machine sleeps and is the same for every process."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SessionClock:
    """Runtime of the session in hours. Within one boot it never goes back, whatever the wall clock does.

    The session began when the provider says (`started`), or else at the first start with this state directory
    and epoch in this boot. Another boot is another session: the machine has not run on in between.
    """

    def __init__(self, *, path: Path, epoch: int, started: datetime | None) -> None:
        given = started.astimezone(UTC).isoformat() if started else ""
        key = {"epoch": epoch, "boot_id": boot_id(), "started": given}
        kept = read_json(path)
        if kept is not None and all(kept.get(name) == value for name, value in key.items()):
            zero_s = kept.get("zero_s")
            # Where boots have no name, a clock that is behind its own zero says that this is another boot.
            if isinstance(zero_s, float) and zero_s <= boot_clock_s():
                self._zero_s = zero_s
                return
        already_s = (datetime.now(UTC) - started).total_seconds() if started else 0.0
        if already_s < 0:
            log.warning("session start %s lies in the future, counting from now", given)
        self._zero_s = boot_clock_s() - max(0.0, already_s)
        try:
            write_json(path, {**key, "zero_s": self._zero_s})
        except OSError as error:
            log.error("session's start not kept, a restart will count from its own: %s", error)

    def runtime_s(self) -> float:
        return max(0.0, boot_clock_s() - self._zero_s)

    def runtime_hours(self) -> float:
        return self.runtime_s() / 3600


def limit_kept(state_dir: Path, *, epoch: int) -> float | None:
    """The limit in hours that the control plane last gave this epoch, for an agent that starts while it is away."""
    kept = read_json(state_dir / LIMIT_FILE) or {}
    hours = kept.get("max_session_hours")
    return hours if kept.get("epoch") == epoch and isinstance(hours, float) else None


def limit_keep(state_dir: Path, *, epoch: int, hours: float | None) -> None:
    try:
        write_json(state_dir / LIMIT_FILE, {"epoch": epoch, "max_session_hours": hours})
    except OSError as error:
        log.error("session's limit not kept, a restart will have none until it is told again: %s", error)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Why and how the agent ends. grace_s caps what each child gets; report_s is for telling the control plane.

    checkpoint_by_s: how long after the beginning of the end a last checkpoint may still be under way; 0: none is taken.
    """

    reason: str
    exit_code: int
    grace_s: float
    report_s: float
    checkpoint_by_s: float = 0.0
    silent: bool = False
    """Stood down: kill what runs and report nothing."""


class EndingRequests:
    """Collects reasons to end, from signals and from threads. The first one counts.

    A signal handler may only do what cannot wait for a lock that the interrupted code holds; so it puts the
    reason into a queue, and the session's thread does the rest.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Ending] = queue.SimpleQueue()
        self._interruptible = False
        self._asked = False
        self._on_signal: list[Callable[[], None]] = []
        self._main_thread = threading.main_thread().ident

    def install(self) -> None:
        """Take over SIGTERM, SIGINT and SIGHUP (unless nohup ignores that one). Main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def on_signal(self, callback: Callable[[], None]) -> None:
        """Called in the handler: only plain assignments."""
        self._on_signal.append(callback)

    @property
    def asked(self) -> bool:
        return self._asked

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within it a signal raises Interrupted in the main thread, as Ctrl-C would; outside it waits its turn."""
        self._interruptible = True
        try:
            if self._asked:
                raise Interrupted
            yield
        finally:
            self._interruptible = False

    def end(self, ending: Ending) -> None:
        """From any thread: end the agent, waking the main thread if it waits for the network."""
        self._queue.put(ending)
        if self._main_thread is not None:
            signal.pthread_kill(self._main_thread, signal.SIGTERM)

    def refuse(self, error: AgentError) -> None:
        """The control plane has closed the door: stood down, or an identity that it no longer takes."""
        silent = isinstance(error, Superseded)
        grace_s = 0.0 if silent else SIGNAL_GRACE_S
        self.end(
            Ending(reason=str(error), exit_code=error.exit_code, grace_s=grace_s, report_s=0.0, silent=silent)
        )

    def wait(self, timeout_s: float) -> Ending | None:
        try:
            return self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def forget(self) -> None:
        """Those that came together with the one that counted: the signal that woke the main thread is among them."""
        while self.wait(FORGET_S) is not None:
            continue

    def _handle(self, number: int, _frame: object) -> None:
        self._asked = True
        self._queue.put(
            Ending(
                reason=f"told to end by {signal.Signals(number).name}",
                exit_code=ENDED_AS_ASKED,
                grace_s=SIGNAL_GRACE_S,
                checkpoint_by_s=SIGNAL_CHECKPOINT_BY_S,
                report_s=SIGNAL_REPORT_S,
            )
        )
        for callback in self._on_signal:
            callback()
        if self._interruptible:
            self._interruptible = False
            raise Interrupted


def limit_reached(limit_hours: float, *, what: str = "the session's limit") -> Ending:
    return Ending(
        reason=f"{what} of {limit_hours:g} h is reached",
        exit_code=ENDED_AS_ASKED,
        grace_s=LIMIT_GRACE_S,
        checkpoint_by_s=LIMIT_GRACE_S,
        report_s=LIMIT_REPORT_S,
    )
