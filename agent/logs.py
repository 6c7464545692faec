"""A child's output, from its file on disk to the control plane, by offset: delivered whole, whatever happens on the way."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from agent import wire
from agent.backoff import Backoff
from agent.client import Client, Refused, StandDown, Unreachable

log = logging.getLogger("agent.logs")

CHUNK_BYTES = wire.LOG_CHUNK_LIMIT_BYTES * 11 // 16
"""Raw bytes of one post: as base64, with the JSON around it, it stays under the limit."""
INTERVAL_S = 0.25
"""At most four posts a second and run; a backlog goes in bigger pieces, not in more of them."""
STUCK_AFTER = 8
"""Answers in a row that do not move the offset; then shipping stops rather than going round for ever."""


class LogShipper(threading.Thread):
    """Follows one file. The file is the truth: whatever the server does not have yet is read from it again.

    stood_down: the server has said that this attempt is over.
    """

    def __init__(self, *, client: Client, dispatch_id: str, fence: int, path: Path, backoff: Backoff) -> None:
        super().__init__(name=f"log {dispatch_id}", daemon=True)
        self._client = client
        self._dispatch_id = dispatch_id
        self._fence = fence
        self._path = path
        self._backoff = backoff
        self._offset = 0
        self._unmoved = 0
        self._unread = 0
        self._complete = False
        self._wake = threading.Event()
        self._abandoned = False
        self.stood_down = threading.Event()

    def complete(self) -> None:
        """The child has ended: the thread ends when everything is delivered."""
        self._complete = True
        self._wake.set()

    def abandon(self) -> None:
        """Send nothing more."""
        self._abandoned = True
        self._wake.set()

    def run(self) -> None:
        try:
            while not self._abandoned:
                started_s = time.monotonic()
                complete = self._complete  # asked before reading: nothing is written after the child's end
                try:
                    chunk = self._read()
                    wait_s = self._send(chunk) if chunk else INTERVAL_S
                    if complete and not self._read():
                        break
                    self._unread = 0
                except OSError as error:
                    wait_s = self._put_off(error)
                if self._wake.wait(max(0.0, wait_s - (time.monotonic() - started_s))):
                    self._wake.clear()
        except StandDown as error:
            log.info("dispatch=%s log refused: %s", self._dispatch_id, error)
            self.stood_down.set()
        except Refused as error:
            # 404: the job was deleted; its worker need not go on. Anything else: the output is not wanted, the job goes on.
            log.error(
                "dispatch=%s log not taken, %d bytes delivered: %s", self._dispatch_id, self._offset, error
            )
            if error.status == 404:
                self.stood_down.set()

    def _read(self) -> bytes:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                return file.read(CHUNK_BYTES)
        except FileNotFoundError:
            return b""

    def _put_off(self, error: OSError) -> float:
        """The pause after this machine could not read its own file (no descriptor left, say); it may well be over soon."""
        self._unread += 1
        if self._unread >= STUCK_AFTER:
            raise Refused(status=0, code="unreadable", message=str(error)) from error
        wait_s = self._backoff.next_s()
        log.warning("dispatch=%s log cannot be read, again in %.1f s: %s", self._dispatch_id, wait_s, error)
        return wait_s

    def _send(self, chunk: bytes) -> float:
        """Post one chunk; the pause until the next."""
        total = self._path.stat().st_size
        post = wire.LogPost.of(fence=self._fence, offset=self._offset, raw=chunk, total=total)
        try:
            answer = self._client.post(wire.dispatch_path(self._dispatch_id, "log"), wire.to_json(post))
        except Unreachable as error:
            wait_s = self._backoff.next_s(retry_after_s=error.retry_after_s)
            log.warning(
                "dispatch=%s log waits %.1f s at byte %d: %s", self._dispatch_id, wait_s, self._offset, error
            )
            return wait_s
        self._backoff.reset()
        self._move((answer or {}).get("offset", self._offset + len(chunk)))
        return INTERVAL_S

    def _move(self, offset: object) -> None:
        """The server's word counts: it may have more (an answer that was lost) or less (it was set back)."""
        size = self._path.stat().st_size
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            log.error("dispatch=%s log answered with offset %r", self._dispatch_id, offset)
            offset = self._offset
        offset = min(offset, size)
        self._unmoved = self._unmoved + 1 if offset <= self._offset else 0
        if self._unmoved >= STUCK_AFTER:
            raise Refused(status=200, code="stuck", message=f"the server stays at byte {offset}")
        self._offset = offset
