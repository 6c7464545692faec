"""The status loop: read, say, obey, once per interval."""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from agent import wire
from agent.backoff import Backoff
from agent.client import ApiError, Client, Refused, StandDown, Unreachable
from agent.dead_man import DeadMan
from agent.dispatcher import Dispatcher
from agent.errors import Superseded
from agent.identity import Identity
from agent.probes import WithDeadline, highest_util
from agent.readings import Machine
from agent.session import SessionClock
from agent.wire import StatusAnswer, StatusPost

log = logging.getLogger("agent.status")

JITTER = 0.1
IDLE_BELOW_PERCENT = 5.0
"""For the agent's own word only; the verdict, with the owner's threshold, is the control plane's."""
POST_TIMEOUT_S = 10.0
GOODBYE_S = 2.0
SHORTEST_INTERVAL_S = 0.05
LONGEST_INTERVAL_S = 3600.0
"""Whatever the answer says: an agent that is never heard again is a lost one, and waiting has its limits in the clock too."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The last reading, for /health. status: starting, idle, busy or unknown. alone: idle, and for sure nobody logged in."""

    status: str = "starting"
    gpu_name: str | None = None
    alone: bool = False


class StatusLoop(threading.Thread):
    """Posts at once, then whenever the last answer said, +-10 %. While the server is silent it backs off and goes on."""

    def __init__(
        self,
        *,
        client: Client,
        identity: Identity,
        clock: SessionClock,
        probe: WithDeadline,
        machine: Machine,
        dispatcher: Dispatcher,
        dead_man: DeadMan,
        is_draining: Callable[[], bool],
        max_session_hours: Callable[[], float | None],
        health_url: str,
        on_superseded: Callable[[Superseded], None],
        backoff_cap_s: float,
    ) -> None:
        super().__init__(name="status", daemon=True)
        self._client = client
        self._identity = identity
        self._clock = clock
        self._probe = probe
        self._machine = machine
        self._dispatcher = dispatcher
        self._dead_man = dead_man
        self._is_draining = is_draining
        self._max_session_hours = max_session_hours
        self._health_url = health_url
        self._on_superseded = on_superseded
        self._backoff = Backoff(cap_s=backoff_cap_s)
        self._wake = threading.Event()
        self._over = False
        self._last_words_s = 0.0
        self._interrogated: set[str] = set()
        self.seen = Seen()
        self.end_by_hours: float | None = None
        """When the account's week is used up, in hours of this session's runtime, as the control plane last said."""

    def post_now(self) -> None:
        """Somebody wants to know: do not wait for the interval."""
        self._wake.set()

    def looks_alone(self) -> bool:
        """A reading of this moment, for when the loop has ended."""
        self._read()
        return self.seen.alone

    def stop(self, *, last_words_s: float = 0.0) -> None:
        """Post no more; or only once more, tried for so long: that this agent has ended, so that nobody waits for what
        will not come, and its hours end at this moment."""
        self._last_words_s = last_words_s
        self._over = True
        self._wake.set()

    def run(self) -> None:
        while not self._over:
            self._wake.clear()
            try:
                wait_s = self._turn()
            except Exception:
                log.exception("worker=%s status failed", self._identity.worker_id)
                wait_s = self._backoff.next_s()
            self._wake.wait(wait_s)
        if self._last_words_s:
            self._say_goodbye(until_s=time.monotonic() + self._last_words_s)

    def _turn(self) -> float:
        """One reading, one post, its orders. The seconds until the next."""
        post = self._read()
        try:
            body = self._client.post(wire.STATUS, wire.to_json(post), read_timeout_s=POST_TIMEOUT_S)
            answer = StatusAnswer.from_json(body)
        except Unreachable as error:
            wait_s = self._backoff.next_s(retry_after_s=error.retry_after_s)
            log.warning("worker=%s status not delivered, again in %.1f s: %s", post.worker_id, wait_s, error)
            self._dead_man.unheard()
            self._dead_man.look()
            return wait_s
        except StandDown as error:
            self._on_superseded(Superseded(error.message, hint=error.hint))
            return self._backoff.next_s()
        except (Refused, wire.WireError) as error:
            log.error("worker=%s status refused: %s", post.worker_id, error)
            self._dead_man.answered()
            return self._backoff.next_s()
        self._backoff.reset()
        self._dead_man.heard({order.id for order in answer.orders if order.kind == "saved"})
        self._obey(answer)
        wait_s = answer.next_in_s * random.uniform(1 - JITTER, 1 + JITTER)
        return min(max(SHORTEST_INTERVAL_S, wait_s), LONGEST_INTERVAL_S)

    def _say_goodbye(self, *, until_s: float) -> None:
        post = StatusPost(
            worker_id=self._identity.worker_id,
            epoch=self._identity.epoch,
            timestamp=_now(),
            instance_id=self._identity.instance_id,
            session_runtime_hours=round(self._clock.runtime_hours(), 5),
            status=wire.ENDED,
        )
        while True:
            try:
                self._client.post(wire.STATUS, wire.to_json(post), read_timeout_s=GOODBYE_S)
            except Unreachable as error:
                wait_s = self._backoff.next_s(retry_after_s=error.retry_after_s)
                if time.monotonic() + wait_s < until_s:
                    time.sleep(wait_s)
                    continue
                log.warning("worker=%s ends without having said so: %s", post.worker_id, error)
            except ApiError as error:
                log.info("worker=%s ends, and nobody wants to know: %s", post.worker_id, error)
            return

    def _read(self) -> StatusPost:
        gpus = self._probe.read()
        machine = self._machine.read()
        held = self._dispatcher.held()
        util = highest_util(gpus)
        status = self._word(util, is_holding=bool(held))
        self.seen = Seen(
            status=status,
            gpu_name=gpus[0].name if gpus else None,
            alone=status == "idle" and machine.ssh_sessions == 0,
        )
        self._dead_man.reading(idle=self.seen.alone)
        post = StatusPost(
            worker_id=self._identity.worker_id,
            epoch=self._identity.epoch,
            timestamp=_now(),
            instance_id=self._identity.instance_id,
            session_runtime_hours=round(self._clock.runtime_hours(), 5),
            max_session_hours=self._max_session_hours(),
            gpu_util=util,
            status=status,
            gpus=gpus,
            cpu_util=machine.cpu_util,
            net_bytes_per_s=machine.net_bytes_per_s,
            disk_free_bytes=machine.disk_free_bytes,
            sessions={} if machine.ssh_sessions is None else {"ssh": machine.ssh_sessions},
            jobs=held,
            health_url=self._health_url,
        )
        log.info(
            "worker=%s reading util=%s status=%s jobs=%d session=%.2fh",
            post.worker_id, "unknown" if util is None else f"{util:g}%", status, len(held), self._clock.runtime_hours(),
        )  # fmt: skip
        return post

    def _word(self, util: float | None, *, is_holding: bool) -> str:
        if self._is_draining():
            return wire.DRAINING
        if is_holding or (util is not None and util >= IDLE_BELOW_PERCENT):
            return "busy"
        return "unknown" if util is None else "idle"

    def _obey(self, answer: StatusAnswer) -> None:
        if answer.epoch > self._identity.epoch:
            message = (
                f"this box is epoch {self._identity.epoch}, the control plane is at epoch {answer.epoch}"
            )
            self._on_superseded(Superseded(message))
            return
        draining = any(order.kind == "drain" for order in answer.orders)
        if draining != self._dispatcher.draining:
            log.info("worker=%s draining=%s", self._identity.worker_id, draining)
            self._dispatcher.draining = draining
        self.end_by_hours = min((h for h in map(_end_by, answer.orders) if h is not None), default=None)
        for order in answer.orders:
            match order.kind:
                case "stand_down":
                    self._on_superseded(Superseded("the control plane ordered this box to stand down"))
                case "cancel":
                    self._dispatcher.cancel(order.id)
                case "interrogate":
                    self._interrogate(order.id)
                case "drain" | "saved" | "end_by":
                    pass
                case unknown:
                    log.warning(
                        "worker=%s order %r is unknown here, ignored", self._identity.worker_id, unknown
                    )
        standing = {order.id for order in answer.orders if order.kind == "interrogate"}
        self._interrogated &= standing

    def _interrogate(self, order_id: str) -> None:
        """An order stands until it is no longer sent: answered once, or the two sides would talk without pause."""
        if order_id not in self._interrogated:
            self._interrogated.add(order_id)
            self._wake.set()


def _end_by(order: wire.Order) -> float | None:
    """The hours that an order to end by then names; None for another order, or one that names none."""
    if order.kind != "end_by" or not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", order.id):
        return None
    return float(order.id)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
