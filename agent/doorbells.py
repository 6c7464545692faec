"""What the rest of the agent knows of Celery: listen for doorbells, and stop listening."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from agent import wire
from agent.client import Client
from agent.errors import UsageError
from agent.session import EndingRequests
from agent.transport import QueuePoll
from agent.worker import build_app, run_worker, stop_soon

log = logging.getLogger("agent.doorbells")


class Doorbells:
    """Hands a dispatch id to `on_dispatch` and a call for a status to `on_status`; both return at once."""

    def __init__(
        self,
        *,
        client: Client,
        worker_id: str,
        requests: EndingRequests,
        on_dispatch: Callable[[str], None],
        on_status: Callable[[], None],
        backoff_cap_s: float,
    ) -> None:
        self._worker_id = worker_id
        self._requests = requests
        self._on_dispatch = on_dispatch
        self._on_status = on_status
        self._poll = QueuePoll(
            client=client, requests=requests, on_superseded=requests.refuse, backoff_cap_s=backoff_cap_s
        )
        self.stop_soon = stop_soon

    def listen(self, transport: Mapping[str, Any]) -> None:
        """Until `stop_soon`. A transport that this agent cannot use is said in the log, and HTTPS serves instead."""
        try:
            app = self._app(transport)
        except UsageError as error:
            log.error("worker=%s falls back to HTTPS: %s", self._worker_id, error)
            app = self._app({"kind": "https"})
        run_worker(app, worker_id=self._worker_id, is_over=lambda: self._requests.asked)

    def _app(self, transport: Mapping[str, Any]) -> Any:
        return build_app(
            worker_id=self._worker_id, transport_settings=transport, poll=self._poll, on_ring=self._ring
        )

    def _ring(self, dispatch_id: str) -> None:
        if dispatch_id == wire.RING_STATUS:
            self._on_status()
        else:
            self._on_dispatch(dispatch_id)
