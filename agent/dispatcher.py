"""From a doorbell to a report: claim, do, report, once each, whatever is killed in between."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

from agent import wire
from agent.backoff import Backoff
from agent.client import Client, Refused, StandDown, Unreachable, post_until_answered
from agent.hold import Halt, Hold
from agent.journal import Entry, Journal
from agent.redact import redact
from agent.session import Ending, boot_clock_s, boot_id
from agent.wire import Claimed, FinishPost

log = logging.getLogger("agent.dispatcher")

LATE_WITHIN_S = 60.0
"""How long a report that nobody waits for is tried."""

HELD_AT_MOST = 64
"""Doorbells beyond this many are dropped: the control plane rings again."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Work(Protocol):
    """Does one kind of work."""

    def is_under_way(self, dispatch_id: str) -> bool:
        """Did an earlier agent begin it so that it can be taken up where it is? Otherwise it is claimed anew."""

    def run(self, hold: Hold, entry: Entry) -> FinishPost | None:
        """Do it to its end. None: stood down, report nothing."""

    def deliver(self, hold: Hold) -> None:
        """Whatever has to reach the control plane before the report."""

    def last_output(self, hold: Hold) -> tuple[str, int]:
        """The last of what it wrote, as text, and how many bytes it wrote in all; for a report that comes too late."""

    def tidy(self, dispatch_id: str) -> None:
        """The report was taken, or is not wanted: remove what is left on the disk."""


class Dispatcher:
    """One thread per dispatch that is held. `work_for` gives the worker of a kind (job, command, snapshot, restore)."""

    def __init__(
        self, *, client: Client, journal: Journal, work_for: Callable[[str], Work], backoff_cap_s: float
    ) -> None:
        self._client = client
        self._journal = journal
        self._work_for = work_for
        self._backoff_cap_s = backoff_cap_s
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._holds: dict[str, Hold] = {}
        self._over = threading.Event()
        self._ending: Ending | None = None
        self.draining = False

    def ring(self, dispatch_id: str) -> None:
        """A doorbell. Returns at once; one for something that is held, finished or unfit does nothing."""
        if not _ID.fullmatch(dispatch_id):
            log.warning("doorbell with %r ignored: not the id of a dispatch", dispatch_id[:80])
            return
        if self._journal.get(dispatch_id) is not None:
            log.info("dispatch=%s doorbell ignored: known here", dispatch_id)
            return
        self._take(dispatch_id, partial(self._serve_new, dispatch_id))

    def recover(self) -> None:
        """After a restart: take up everything that the journal says is not closed."""
        for entry in self._journal.open_entries():
            log.info("dispatch=%s taken up again finished=%s", entry.dispatch_id, entry.finish is not None)
            self._take(entry.dispatch_id, partial(self._serve_again, entry))

    def held(self) -> tuple[str, ...]:
        """Ids of the dispatches whose lease this worker wants renewed."""
        with self._lock:
            return tuple(self._holds)

    def owes_reports(self) -> bool:
        """Is there anything here that the control plane has not been told the end of?"""
        return bool(self._journal.open_entries())

    def cancel(self, dispatch_id: str) -> None:
        with self._lock:
            hold = self._holds.get(dispatch_id)
        if hold is not None and hold.halt is None:
            log.info("dispatch=%s cancelled", dispatch_id)
            hold.cancel()

    def end(self, ending: Ending) -> None:
        """Interrupt everything and return when it has ended, or when its time is over."""
        with self._lock:
            self._ending = ending
            holds, threads = list(self._holds.values()), list(self._threads.values())
        self._over.set()
        for hold in holds:
            hold.end(ending)
        work_s = max(ending.grace_s, ending.checkpoint_by_s)
        deadline_s = time.monotonic() + work_s + ending.report_s + 1.0
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    # -- one dispatch -----------------------------------------------------------------------------

    def _take(self, dispatch_id: str, serve: Callable[[], None]) -> None:
        with self._lock:
            if self._ending is not None or dispatch_id in self._threads:
                return
            if len(self._threads) >= HELD_AT_MOST:
                log.warning("dispatch=%s doorbell ignored: %d dispatches are held", dispatch_id, HELD_AT_MOST)
                return
            thread = threading.Thread(
                target=self._guarded, args=(dispatch_id, serve), name=f"dispatch {dispatch_id}", daemon=True
            )
            self._threads[dispatch_id] = thread
        thread.start()

    def _guarded(self, dispatch_id: str, serve: Callable[[], None]) -> None:
        try:
            serve()
        except Exception:
            # The lease runs out, the control plane gives the work to somebody else.
            log.exception("dispatch=%s the agent failed", dispatch_id)
        finally:
            with self._lock:
                self._threads.pop(dispatch_id, None)
                self._holds.pop(dispatch_id, None)

    def _serve_new(self, dispatch_id: str) -> None:
        claim = self._claim(dispatch_id)
        if claim is None:
            return
        hold = self._hold(claim)
        try:
            entry = self._journal.claimed(claim, claimed_s=boot_clock_s(), boot_id=boot_id())
        except OSError as error:
            # A restart would not know of it: it is given back before anything of it has begun.
            reason = f"this machine cannot write down what it takes on: {error}"
            self._report(hold, FinishPost(fence=claim.fence, outcome="interrupted", reason=reason))
            return
        if self.draining and claim.kind == "job":
            self._report(
                hold, FinishPost(fence=claim.fence, outcome="interrupted", reason="this worker is draining")
            )
            return
        self._do(hold, entry)

    def _serve_again(self, entry: Entry) -> None:
        """An entry that a restart found open."""
        if entry.claim is None:
            self._journal.closed(entry.dispatch_id)
        elif entry.finish is not None:
            self._report(self._hold(entry.claim), entry.finish)
        elif self._work_for(entry.claim.kind).is_under_way(entry.dispatch_id):
            # A child goes on whatever the control plane thinks of it meanwhile; the first report will tell.
            self._do(self._hold(entry.claim), entry)
        else:
            self._serve_new(entry.dispatch_id)

    def _do(self, hold: Hold, entry: Entry) -> None:
        work = self._work_for(hold.claim.kind)
        try:
            finish = work.run(hold, entry)
        except Exception as error:
            log.exception("dispatch=%s the agent failed", entry.dispatch_id)
            reason = f"the agent failed: {type(error).__name__}: {redact(str(error))}"[:500]
            # A job may succeed on another worker; a snapshot or restore is this machine's or nobody's.
            outcome = "interrupted" if hold.claim.kind == "job" else "failed"
            finish = FinishPost(fence=hold.claim.fence, outcome=outcome, reason=reason)
        if finish is None:
            self._close(hold)
        else:
            self._report(hold, finish)

    def _claim(self, dispatch_id: str) -> Claimed | None:
        """None: not ours (any more). Forgotten, unless it is only that this agent ends before it was answered."""
        kinds = tuple(kind for kind in wire.KINDS if kind != "job") if self.draining else None
        try:
            answer = post_until_answered(
                self._client,
                wire.dispatch_path(dispatch_id, "claim"),
                wire.to_json(wire.ClaimPost(kinds=kinds)),
                backoff=Backoff(cap_s=self._backoff_cap_s),
                given_up=self._over.is_set,
            )
            claim = Claimed.from_json(answer)
            if claim.dispatch_id != dispatch_id:
                raise wire.WireError(f"the answer is about {claim.dispatch_id}")
        except Unreachable as error:
            log.info("dispatch=%s not claimed: %s", dispatch_id, error)
            return None
        except (Refused, wire.WireError) as error:
            log.info("dispatch=%s not claimed: %s", dispatch_id, error)
            if self._journal.get(dispatch_id) is not None:
                self._journal.closed(dispatch_id)
            return None
        log.info("dispatch=%s claimed kind=%s fence=%d", dispatch_id, claim.kind, claim.fence)
        return claim

    def _hold(self, claim: Claimed) -> Hold:
        hold = Hold(claim)
        with self._lock:
            self._holds[claim.dispatch_id] = hold
            ending = self._ending
        if ending is not None:
            hold.end(ending)
        return hold

    def _report(self, hold: Hold, finish: FinishPost) -> None:
        """Journal first, then what belongs before the report, then the report until it is taken or unwanted."""
        dispatch_id = hold.claim.dispatch_id
        hold.work_is_over()
        known = self._journal.get(dispatch_id)
        if known is None or known.finish is None:
            try:
                self._journal.finished(dispatch_id, finish)
            except OSError as error:
                # A full disk: the report is still good, only a crash before it is taken would lose it.
                log.error("dispatch=%s not journalled: %s", dispatch_id, error)
        self._work_for(hold.claim.kind).deliver(hold)
        try:
            if hold.halt is Halt.STAND_DOWN:
                self._report_late(hold, finish)
            else:
                self._finish(hold, finish)
        except StandDown:
            self._report_late(hold, finish)
        except Unreachable as error:
            log.warning("dispatch=%s not reported yet, kept in the journal: %s", dispatch_id, error)
            return
        except Refused as error:
            log.warning("dispatch=%s report outcome=%s not wanted: %s", dispatch_id, finish.outcome, error)
        self._close(hold)

    def _finish(self, hold: Hold, finish: FinishPost) -> None:
        post_until_answered(
            self._client,
            wire.dispatch_path(hold.claim.dispatch_id, "finish"),
            wire.to_json(finish),
            backoff=Backoff(cap_s=self._backoff_cap_s),
            given_up=lambda: not hold.may_report(),
        )
        log.info("dispatch=%s reported outcome=%s", hold.claim.dispatch_id, finish.outcome)

    def _report_late(self, hold: Hold, finish: FinishPost) -> None:
        """This attempt is over and its result is nobody's: it is told all the same, for people to look at."""
        if hold.ending is not None and hold.ending.silent:
            return
        dispatch_id = hold.claim.dispatch_id
        tail, size = self._work_for(hold.claim.kind).last_output(hold)
        late = replace(finish, output_tail=tail, output_bytes=size)
        until_s = time.monotonic() + LATE_WITHIN_S
        try:
            post_until_answered(
                self._client,
                wire.dispatch_path(dispatch_id, "finish"),
                wire.to_json(late),
                backoff=Backoff(cap_s=self._backoff_cap_s),
                given_up=lambda: self._over.is_set() or time.monotonic() > until_s,
            )
        except (Refused, Unreachable) as error:
            log.warning("dispatch=%s report outcome=%s too late: %s", dispatch_id, finish.outcome, error)

    def _close(self, hold: Hold) -> None:
        if self._ending is not None and self._ending.silent:
            return
        try:
            self._journal.closed(hold.claim.dispatch_id)
        except OSError as error:
            # At worst it is reported again after a restart. Tidying may be what makes room.
            log.error("dispatch=%s not closed in the journal: %s", hold.claim.dispatch_id, error)
        self._work_for(hold.claim.kind).tidy(hold.claim.dispatch_id)
