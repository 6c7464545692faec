"""The last defence against a forgotten bill: a box that is alone, idle and saved destroys itself.

Only with the container's own key, only after the control plane was silent and the machine idle for all of the time that
the control plane has set, and only where every byte of the workspace is in a generation that it has called verified.
Whatever is unknown is a reason to stay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from agent.own_box import OwnBox
from agent.saved import Saved
from agent.session import boot_clock_s

log = logging.getLogger("agent.dead_man")

AGAIN_S = 60.0
UNSAVED_AGAIN_S = 600.0
LOOK_EVERY_S = 5.0


class DeadMan:
    """own: None where this machine cannot end itself, and then nothing here does anything. minutes: None or 0, switched off."""

    def __init__(
        self,
        *,
        own: OwnBox | None,
        saved: Saved,
        minutes: Callable[[], float | None],
        at_rest: Callable[[], bool],
        clock_s: Callable[[], float] = boot_clock_s,
    ) -> None:
        """at_rest: take no more work; whether nothing is held."""
        self._own = own
        self._saved = saved
        self._minutes = minutes
        self._at_rest = at_rest
        self._clock_s = clock_s
        self._silent_since_s: float | None = None
        self._idle_since_s: float | None = None
        self._not_before_s = 0.0

    @property
    def is_armed(self) -> bool:
        """Whether this box may end itself at all."""
        return self._own is not None and bool(self._minutes()) and self._saved.is_verified

    def heard(self, verified_ids: Collection[str]) -> None:
        """The control plane has answered; verified_ids: the generations that it vouches for."""
        self._silent_since_s = None
        self._saved.told(verified_ids)

    def answered(self) -> None:
        """Somebody is there, whatever was answered."""
        self._silent_since_s = None

    def unheard(self) -> None:
        if self._silent_since_s is None:
            self._silent_since_s = self._clock_s()

    def reading(self, *, idle: bool) -> None:
        if not idle:
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = self._clock_s()

    def look(self) -> bool:
        """Ask for the box to go if all of it holds. True where that was asked and taken; it may still be here afterwards."""
        own, limit_s, now_s = self._own, 60 * (self._minutes() or 0), self._clock_s()
        if own is None or not self.is_armed or now_s < self._not_before_s:
            return False
        if not _for(self._silent_since_s, now_s) >= limit_s or not _for(self._idle_since_s, now_s) >= limit_s:
            return False
        if not self._saved.is_everything():
            log.warning("box=%s is alone and idle, and stays: its workspace is not what was saved", own.ref)
            self._not_before_s = now_s + UNSAVED_AGAIN_S
            return False
        if not self._at_rest():
            return False
        self._not_before_s = now_s + AGAIN_S
        log.error(
            "box=%s destroys itself: the control plane has been silent and the machine idle for %g minutes, and all of the"
            " workspace is in a verified snapshot",
            own.ref, self._minutes(),
        )  # fmt: skip
        return own.destroy()

    def outlive(self, *, is_idle: Callable[[], bool], stopped: Callable[[float], bool]) -> None:
        """After the control plane has closed its door: it wants this box gone and will see to it. Should it die before that,
        the box does it. stopped: waits so many seconds; true where the agent is told to end."""
        if not self.is_armed:
            return
        log.info(
            "stood down; should this box still be here in %g minutes, it destroys itself", self._minutes()
        )
        self.unheard()
        while not stopped(LOOK_EVERY_S):
            self.reading(idle=is_idle())
            self.look()


def _for(since_s: float | None, now_s: float) -> float:
    return -1.0 if since_s is None else now_s - since_s
