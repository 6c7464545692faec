"""The Celery worker of this box: stock Celery, one queue, one task."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from typing import Any

import celery.worker.state
from celery import Celery
from kombu import entity

from agent import transport, wire
from agent.errors import UsageError
from agent.transport import Poll

log = logging.getLogger("agent.worker")

_entity: Any = entity  # kombu's entities carry no annotations


def build_app(
    *, worker_id: str, transport_settings: Mapping[str, Any], poll: Poll, on_ring: Callable[[str], None]
) -> Celery:
    """A Celery app that consumes this worker's queue and hands each doorbell to `on_ring`.

    transport_settings: AgentSettings.transport. Raises UsageError for one that this agent does not know.
    """
    match transport_settings.get("kind", "https"):
        case "https":
            transport.register()
            broker_url, options = f"{transport.ALIAS}://gateway//", {"poll": poll}
        case "redis":
            broker_url, options = _direct_redis(worker_id, transport_settings)
        case kind:
            raise UsageError(f"the control plane asks for transport {kind!r}", hint="update the agent")
    # Celery's Django fixup stays out, and so does any celeryconfig of the machine's user.
    app = Celery("dormouse-agent", broker=broker_url, fixups=[], set_as_current=True)
    app.conf.update(
        broker_transport_options=options,
        task_queues=[_entity.Queue("jobs", _entity.Exchange(""), routing_key="jobs", no_declare=True)],
        task_default_queue="jobs",
        task_create_missing_queues=False,
        task_ignore_result=True,
        result_backend=None,
        task_serializer="json",
        accept_content=["json"],
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
    )

    def ring(dispatch_id: str) -> None:
        """A doorbell. It only hands the id on: what it is about is asked over HTTPS."""
        on_ring(str(dispatch_id))

    # Not shared: the worker is built anew when the transport changes, and its task with it.
    app.task(name=wire.TASK_RING, shared=False)(ring)
    return app


def run_worker(app: Celery, *, worker_id: str, is_over: Callable[[], bool]) -> None:
    """Consume until `stop_soon` was called. Main thread only. is_over: the process has been told to end.

    Celery's worker as a library: its command-line program would take the signals, print a banner and restart
    itself on a hang-up. Gossip and mingle would read other keys than this worker's (celery.md 1.1).
    """
    celery.worker.state.should_stop = None
    celery.worker.state.should_terminate = None
    # A signal that came just before these lines has left its trace there, and only there.
    if is_over():
        return
    worker = app.WorkController(
        hostname=f"agent@{worker_id}",
        pool="solo",
        concurrency=1,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel=log.getEffectiveLevel(),
    )
    log.info("worker=%s listens queue=%s", worker_id, wire.queue_key(worker_id))
    worker.start()


def stop_soon() -> None:
    """Ask the worker to end after its current poll. A plain assignment: safe in a signal handler and from any thread."""
    celery.worker.state.should_stop = 0


def _direct_redis(worker_id: str, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The mode that needs an ACL of one key and two commands (BRPOP, PING): measured in celery.md 1.1."""
    url = settings.get("url")
    if not isinstance(url, str) or not url.startswith(("redis://", "rediss://", "redis+socket://")):
        raise UsageError(
            "the control plane asks for direct Redis without an address", hint="set its agent Redis URL"
        )
    if importlib.util.find_spec("redis") is None:
        raise UsageError(
            "the control plane asks for direct Redis, and redis-py is not here", hint="pip install redis"
        )
    prefix = wire.queue_key(worker_id).removesuffix("jobs")
    return url, {
        "global_keyprefix": prefix,
        "ack_emulation": False,
        "priority_steps": [0],
        "polling_interval": 5,
        "socket_keepalive": True,
        "socket_connect_timeout": 10,
        "health_check_interval": 25,
    }
