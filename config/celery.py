"""The Celery app of the control plane: short, idempotent tasks; the database is the truth, a message is a doorbell.

Measured: docs/adr/0002 and the settings' comments. GPU machines run workers of their own (`agent`), not this app.
"""

from __future__ import annotations

import logging.config
import os
from typing import Any

from celery import Celery, signals
from kombu import Exchange, Queue

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from django.conf import settings

from config.checks import refuse_wrong_settings

TICK = "tick"
CHAINS = "chains"

app = Celery("dormouse")
app.conf.update(
    broker_url=settings.BROKER_URL,
    # All seconds. visibility_timeout must be one value for every worker: the scan for lost messages uses the
    # scanner's own over shared keys, and a task longer than it would run twice; hence well above task_time_limit.
    broker_transport_options={
        "visibility_timeout": 900,
        "unacked_restore_interval": 15,
        "unacked_restore_throttle": 1,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
        # For whoever sends: one more try at once, then the error. Without these a ring waits 6 s for a broker that is
        # away, and the request that made it waits with it. A worker's own reconnecting is set below.
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0,
    },
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,  # the default gives up after 100 and the worker exits
    task_acks_late=True,
    task_reject_on_worker_lost=True,  # an endless loop on a task that kills its process is cut by the chain's attempts
    task_soft_time_limit=240,
    task_time_limit=300,
    worker_prefetch_multiplier=1,
    worker_soft_shutdown_timeout=20,
    # A child that leaks is replaced, none for the number of its tasks: docs/adr/0009-celery-children-by-memory.md.
    worker_max_memory_per_child=500_000,  # KiB
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    task_ignore_result=True,
    result_backend=None,
    task_serializer="json",
    accept_content=["json"],
    task_queues=[Queue(name, Exchange(name, type="direct"), routing_key=name) for name in (TICK, CHAINS)],
    task_default_queue=TICK,
    task_default_exchange=TICK,
    task_default_routing_key=TICK,
    task_create_missing_queues=False,
    # What waits for a network, or moves many rows, must not hold up the ticks that store what agents post.
    task_routes={
        "core.chains.*": {"queue": CHAINS},
        "core.alerts.*": {"queue": CHAINS},
        "pool.kaggle_tick": {"queue": CHAINS},
        "hibernation.account_reconcile": {"queue": CHAINS},
        "pool.history.*": {"queue": CHAINS},
        "pool.interrogation.*": {"queue": CHAINS},
    },
    timezone="UTC",
    beat_scheduler="config.beat:LeasedScheduler",
    beat_max_loop_interval=1,  # seconds; the shortest tick is one
)
app.autodiscover_tasks()
# app.set_default() is Celery's own doing for the first app of a process; said here because @shared_task relies on it.
app.set_default()


@signals.setup_logging.connect
def keep_our_logging(**_: Any) -> None:
    """A receiver here is what keeps Celery from configuring any logger."""
    logging.config.dictConfig(settings.LOGGING)


signals.worker_init.connect(refuse_wrong_settings)
signals.beat_init.connect(refuse_wrong_settings)
