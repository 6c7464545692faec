"""Celery's way to its queue: a kombu transport that long-polls the control plane over HTTPS. It can only consume.

The server pops from the same Redis list that a worker with direct access would read, and sends the message's bytes
as they are (ADR 0001). Delivery is at most once: a doorbell that is lost is rung again.
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable
from queue import Empty
from typing import Any, Protocol, cast

from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES, virtual

from agent import wire
from agent.backoff import Backoff
from agent.client import Client, Refused, StandDown, Unreachable
from agent.errors import Interrupted, Superseded
from agent.session import EndingRequests

log = logging.getLogger("agent.transport")

ALIAS = "dormouse"
WAIT_S = wire.POLL_WAIT_LIMIT_S
ANSWER_WITHIN_S = WAIT_S + 15.0
EMPTY_TOO_SOON_S = 0.2
"""A server that says "nothing" without having waited is asked again only after a second."""


class Poll(Protocol):
    """What a channel needs: the next message, None for "nothing so far"; ConnectionError when there is no line."""

    def next(self) -> dict[str, Any] | None: ...


class QueuePoll:
    """Long polls with the client's token. Runs in the main thread, where a signal cuts it short at once.

    Raises ConnectionError after a pause (back-off with jitter, or Retry-After), so that kombu's own immediate
    reconnects stay gentle; TimeoutError when the process is to end.
    """

    def __init__(
        self,
        *,
        client: Client,
        requests: EndingRequests,
        on_superseded: Callable[[Superseded], None],
        backoff_cap_s: float,
    ) -> None:
        self._client = client
        self._requests = requests
        self._on_superseded = on_superseded
        self._backoff = Backoff(cap_s=backoff_cap_s)

    def next(self) -> dict[str, Any] | None:
        try:
            with self._requests.interruptible():
                return self._next()
        except Interrupted:
            raise TimeoutError("the agent is ending") from None

    def _next(self) -> dict[str, Any] | None:
        asked_s = time.monotonic()
        try:
            message = self._client.post(
                wire.QUEUE, {}, query={"wait": str(WAIT_S)}, read_timeout_s=ANSWER_WITHIN_S
            )
        except Unreachable as error:
            raise self._no_line(error, error.retry_after_s) from error
        except StandDown as error:
            self._on_superseded(Superseded(error.message, hint=error.hint))
            raise self._no_line(error, None) from error
        except Refused as error:
            raise self._no_line(error, None) from error
        self._backoff.reset()
        if message is not None and not _is_message(message):
            log.error(
                "queue held something that is no Celery message, dropped: fields %s", sorted(message)[:10]
            )
            return None
        if message is None and time.monotonic() - asked_s < EMPTY_TOO_SOON_S:
            time.sleep(1.0)
        return message

    def _no_line(self, error: Exception, retry_after_s: float | None) -> ConnectionError:
        wait_s = self._backoff.next_s(retry_after_s=retry_after_s)
        log.warning("queue cannot be read, again in %.1f s: %s", wait_s, error)
        time.sleep(wait_s)
        return ConnectionError(str(error))


def _is_message(message: dict[str, Any]) -> bool:
    """Would kombu and Celery get as far as looking at the task's name? What they trip over would end the worker."""
    try:
        properties, body = message["properties"], message["body"]
        if properties.get("body_encoding") == "base64":
            body = base64.b64decode(body, validate=True)
        return bool(
            properties["delivery_tag"]
            and isinstance(message["headers"], dict)
            and message["content-type"] == "application/json"
            and isinstance(json.loads(body), list)
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


class Channel(virtual.Channel):
    """One queue, consumed. Declaring and binding mean nothing here; publishing is refused."""

    # What is not acknowledged is not put back: there is nowhere to put it, and the control plane rings again.
    do_restore = False

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        poll: Poll = self.connection.client.transport_options["poll"]
        message = poll.next()
        if message is None:
            raise Empty
        return message

    def _put(self, queue: str, message: object, **_: object) -> None:
        raise OperationalError(
            "this transport only consumes: an agent talks to the control plane through its API"
        )

    def _size(self, queue: str) -> int:
        return 0

    def _purge(self, queue: str) -> int:
        return 0

    def _delete(self, queue: str, *_: object, **__: object) -> None:
        """There is nothing on this side to delete."""


class Transport(virtual.Transport):
    Channel = Channel
    driver_type = ALIAS
    driver_name = ALIAS
    # The poll itself waits: kombu's pause between two empty polls would only add latency.
    polling_interval = 0.0
    connection_errors = cast(tuple[Any], (*virtual.Transport.connection_errors, OSError))

    def driver_version(self) -> str:
        return "1"


def register() -> None:
    """Make `dormouse://` a broker address."""
    TRANSPORT_ALIASES[ALIAS] = f"{__name__}:Transport"
