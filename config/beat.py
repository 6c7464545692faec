"""Celery Beat with a lease: of any number of beats one sends, and when it dies another does."""

from __future__ import annotations

import logging
import os
import socket
import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

from celery.beat import SchedulingError
from django.conf import settings
from django.db import DatabaseError, IntegrityError, InterfaceError, close_old_connections, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django_celery_beat.schedulers import DatabaseScheduler, ModelEntry
from kombu.exceptions import OperationalError

from config.schedule import schedule_upsert
from core.models import Lease

log = logging.getLogger("config.beat")

LEASE = "beat"


def lease_take(*, holder: str, lease_s: float) -> bool:
    """Take or renew the beat's lease for lease_s seconds; False while another holds it.

    The clock is the database's: those of two hosts may differ by more than the lease.
    """
    until = Now() + timedelta(seconds=lease_s)
    free = Q(holder=holder) | Q(until__lt=Now())
    if Lease.objects.filter(free, name=LEASE).update(holder=holder, until=until):
        return True
    if Lease.objects.filter(name=LEASE).exists():
        return False
    try:
        with transaction.atomic():
            Lease.objects.create(name=LEASE, holder=holder, until=until)
    except IntegrityError:
        return False
    return True


def lease_release(*, holder: str) -> None:
    """Give the lease up, where this holder has it: the next beat's first look gets it."""
    Lease.objects.filter(name=LEASE, holder=holder).delete()


class LeasedScheduler(DatabaseScheduler):
    """Sends only while it leads.

    A lease that was renewed a moment ago is not asked for again: a leader writes to the database three times
    a lease, not once a message. A leader that was stopped for longer than its lease, and then goes on, asks first.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:6]}"
        self.lease_s = settings.BEAT_LEASE_S
        self.leading = False
        self._ended = False
        self._renewed_s = float("-inf")
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """The rows come from `schedule_upsert`, which the leader calls; Celery's own default entry is not wanted."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Seconds until the next call. Raises SystemExit after `close`."""
        if self._ended:
            # Celery's signal handler closes and then raises this. Where the signal came in the middle of a message, the
            # closed connection's own error took its place, was taken for a broker's, and the beat went on for ever.
            raise SystemExit
        if not self._leads():
            return min(2.0, self.lease_s / 3)
        try:
            delay_s = super().tick(*args, **kwargs)
        except OperationalError as error:
            log.warning("beat=%s broker away, no ticks until it is back: %s", self.holder, error)
            self._heap = None  # the entry at hand was taken out of it and never put back
            return 1.0
        return min(delay_s, self.lease_s / 3)

    def apply_entry(self, entry: ModelEntry, producer: Any = None) -> None:
        """Send one tick. Asks for the lease once more: the broker may have kept us waiting for longer than it lasts."""
        if not self._leads():
            return
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except SchedulingError as error:
            log.warning("beat=%s tick=%s not sent: %s", self.holder, entry.name, error)

    def _ensure_connected(self) -> Any:
        """One try; Celery's own waits up to 30 s between tries, in which nobody renews the lease."""
        return self.connection.ensure_connection(max_retries=1, interval_start=0.2)

    def _leads(self) -> bool:
        if self._ended:
            return False
        asked_s = time.monotonic()
        if self.leading and asked_s - self._renewed_s < self.lease_s / 3:
            return True
        try:
            close_old_connections()
            leading = lease_take(holder=self.holder, lease_s=self.lease_s)
            if leading and not self.leading:
                schedule_upsert()
        except (DatabaseError, InterfaceError) as error:
            log.warning("beat=%s database away, no ticks until it is back: %s", self.holder, error)
            leading = False
        if leading:
            self._renewed_s = asked_s
        if leading and not self.leading:
            log.info("beat=%s leads", self.holder)
            self._initial_read, self._heap = True, None  # another beat may have moved last_run_at since
        elif self.leading and not leading:
            log.warning("beat=%s leads no more", self.holder)
            self._dirty.clear()  # its run times are older than the new leader's
        self.leading = leading
        return leading

    def close(self) -> None:
        """A clean stop: keep the last run times, then let the next beat lead at once. Called twice by Celery."""
        self._ended = True
        super().close()
        try:
            lease_release(holder=self.holder)
        except (DatabaseError, InterfaceError) as error:
            log.warning("beat=%s could not give up its lease: %s", self.holder, error)
        self.leading = False
