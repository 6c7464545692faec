"""Workers: made for an instance, drained, ended, revoked. How they enrol is in `enrollment`."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.contrib.auth.models import AbstractBaseUser
from django.db import IntegrityError, transaction
from django.utils import timezone

from core.errors import Invalid
from core.reasons import Reason, because
from core.transitions import advance, event_add
from pool import signals
from pool.growth import overdue_s
from pool.models import Account, Worker
from pool.services.bell import dispatcher_ring
from pool.services.books import session_end
from pool.services.dispatches import dispatches_withdraw
from pool.services.publish import gate_publish, orders_publish
from pool.states import LISTENING, WorkerState

NO_SECRETS = {"secret_sha256": "", "next_secret_sha256": "", "retired_secret_sha256": ""}


def overdue_at(seen_at: datetime, *, check_interval_s: float, missing: int = 1) -> datetime:
    """When `missing` posts in a row count as missing, for a worker that was last heard at `seen_at`."""
    return seen_at + timedelta(seconds=overdue_s(check_interval_s, missing=missing))


def worker_create(
    *,
    account: Account,
    name: str,
    instance_ref: str,
    owner: AbstractBaseUser | None = None,
    slots: int = 1,
    check_interval_s: float | None = None,
    now: datetime | None = None,
) -> Worker:
    """The one worker of a rented instance: an identity that its boxes take up one after the other, by enrolment.

    Only `owner` (the account's, where none is given) and operators see it, and it takes only jobs that name the
    instance. Asking again for the same instance returns the worker that it has, unless that was revoked. Raises Invalid where the account has
    another worker of that name.
    """
    now = now or timezone.now()
    found = _of_instance(instance_ref)
    if found is not None:
        return found
    reason = because("worker_created", instance=instance_ref)
    try:
        with transaction.atomic():
            worker = Worker.objects.create(
                account=account,
                owner=owner or account.owner,
                name=name,
                instance_ref=instance_ref,
                slots=slots,
                check_interval_s=check_interval_s or account.check_interval_s,
                state=WorkerState.OFFLINE,
                state_since=now,
                created_at=now,
                **Worker.reason_columns(reason),
            )
            event_add(worker, "worker_created", reason=reason, now=now, to_state=WorkerState.OFFLINE)
    except IntegrityError as error:
        found = _of_instance(instance_ref)
        if found is not None:
            return found
        raise Invalid(
            f"account {account} has a worker {name!r} already", hint="choose another name"
        ) from error
    return worker


def _of_instance(instance_ref: str) -> Worker | None:
    return Worker.objects.filter(instance_ref=instance_ref).exclude(state=WorkerState.REVOKED).first()


def worker_drain(worker: Worker, *, reason: Reason, by: str = "", now: datetime | None = None) -> None:
    """No new jobs from now on; what it has begun, it finishes, and what it has not begun is given elsewhere.

    The copy says what became of it. One that drains already is left as it is; one that is offline or lost takes nothing
    anyway, and drains from its next post on. The order stands until it is taken back or a new session is enrolled.
    """
    now = now or timezone.now()
    if worker.state in (WorkerState.DRAINING, WorkerState.OFFLINE, WorkerState.LOST):
        worker.refresh_from_db()
    if worker.state == WorkerState.DRAINING:
        Worker.objects.filter(pk=worker.pk, drain_asked_at=None).update(drain_asked_at=now)
        return
    with transaction.atomic():
        if worker.state in (WorkerState.OFFLINE, WorkerState.LOST):
            Worker.objects.filter(pk=worker.pk, epoch=worker.epoch).update(drain_asked_at=now)
            return
        advance(worker, WorkerState.DRAINING, reason=reason, by=by, now=now, drain_asked_at=now)
        away = because("worker_away", state=str(WorkerState.DRAINING))
        dispatches_withdraw(worker, reason=away, now=now, unclaimed_jobs=True)
        orders_publish([worker.pk])


def worker_undrain(
    worker: Worker, *, reason: Reason | None = None, by: str = "", now: datetime | None = None
) -> None:
    """Take the order to drain back. One that does not drain is left in its state."""
    worker.refresh_from_db()
    with transaction.atomic():
        Worker.objects.filter(pk=worker.pk, drain_asked_at__isnull=False).update(drain_asked_at=None)
        if worker.state != WorkerState.DRAINING:
            return
        advance(worker, WorkerState.ONLINE, reason=reason or because("drain_taken_back"), by=by, now=now)
        orders_publish([worker.pk])
        dispatcher_ring()


def worker_drains(worker: Worker, *, draining: bool, now: datetime) -> None:
    """What its agent says of itself: it ends what it has because its session is near its end, or it goes on (a start anew).

    That is no order: it ends with the session. An order that stands is nobody's but who gave it. Raises TransitionRefused
    from a stale copy.
    """
    if draining and worker.state in (WorkerState.ONLINE, WorkerState.SUSPECT):
        reason = because("session_near_end")
        with transaction.atomic():
            advance(worker, WorkerState.DRAINING, reason=reason, now=now)
            away = because("worker_away", state=str(WorkerState.DRAINING))
            dispatches_withdraw(worker, reason=away, now=now, unclaimed_jobs=True)
    elif not draining and worker.state == WorkerState.DRAINING and worker.drain_asked_at is None:
        with transaction.atomic():
            advance(worker, WorkerState.ONLINE, reason=because("worker_posted"), now=now)
            orders_publish([worker.pk])
            dispatcher_ring()


def worker_slots_set(worker: Worker, slots: int) -> None:
    """How many jobs it takes at once from now on; 0: none, while its workspace is restored or saved, say.

    Other dispatches are not counted, and jobs that run already go on.
    """
    Worker.objects.filter(pk=worker.pk).update(slots=slots)
    worker.slots = slots
    if slots:
        dispatcher_ring()


def worker_saved(worker: Worker, ref: str) -> None:
    """Its workspace is in the verified snapshot `ref`: its agent is told, for the day on which it is alone. "": no longer."""
    with transaction.atomic():
        if Worker.objects.filter(pk=worker.pk).exclude(saved_ref=ref).update(saved_ref=ref):
            orders_publish([worker.pk])
    worker.saved_ref = ref


def worker_heard(worker: Worker, *, now: datetime) -> bool:
    """It has posted its status: if it was thought offline, silent or lost, it is online again, or goes on draining.

    True where it was thought so. Raises TransitionRefused where something else has moved it meanwhile.
    """
    if worker.state not in (WorkerState.OFFLINE, WorkerState.SUSPECT, WorkerState.LOST):
        return False
    draining = worker.drain_asked_at is not None
    with transaction.atomic():
        back = WorkerState.DRAINING if draining else WorkerState.ONLINE
        advance(worker, back, reason=because("drain_stands" if draining else "worker_posted"), now=now)
        if draining or worker.ends_at is not None:
            orders_publish([worker.pk], ring=draining)
        signals.worker_online.send(sender=Worker, worker=worker, now=now)
        dispatcher_ring()
    return True


def worker_lost(worker: Worker, *, reason: Reason, now: datetime | None = None) -> None:
    """It has gone silent: what it holds is withdrawn, its jobs run elsewhere. It may come back in the same session."""
    _leave(worker, WorkerState.LOST, reason=reason, by="", now=now or timezone.now())


def worker_offline(
    worker: Worker,
    *,
    reason: Reason,
    by: str = "",
    now: datetime | None = None,
    ended_at: datetime | None = None,
) -> None:
    """Its session has ended or its box is gone: what it holds is withdrawn, its jobs run elsewhere, its books close.

    ended_at: when that was, where it is known better than by `now`. A worker that is offline or revoked already stays
    so. Raises TransitionRefused from a stale copy.
    """
    now = now or timezone.now()
    with transaction.atomic():
        if worker.state not in (WorkerState.OFFLINE, WorkerState.REVOKED):
            _leave(worker, WorkerState.OFFLINE, reason=reason, by=by, now=now)
        session_end(worker, at=ended_at or now)


def worker_retire(worker: Worker, *, reason: Reason, by: str = "", now: datetime | None = None) -> None:
    """Its box is gone for good: offline, and whatever still speaks in this epoch is answered with stand down.

    The worker itself stays; its next epoch begins with the next enrolment. Doing it again changes nothing.
    """
    now = now or timezone.now()
    worker.refresh_from_db()
    with transaction.atomic():
        worker_offline(worker, reason=reason, by=by, now=now)
        if (
            Worker.objects.filter(pk=worker.pk, epoch=worker.epoch)
            .exclude(secret_sha256="")
            .update(**NO_SECRETS)
        ):
            gate_publish(worker)
    worker.secret_sha256 = ""


def worker_revoke(worker: Worker, *, reason: Reason, by: str = "", now: datetime | None = None) -> None:
    """Its identity counts for nothing any more, at once and for ever: it can neither post, poll, report nor refresh."""
    now = now or timezone.now()
    if worker.state == WorkerState.REVOKED:
        return
    with transaction.atomic():
        _leave(worker, WorkerState.REVOKED, reason=reason, by=by, now=now, **NO_SECRETS)
        session_end(worker, at=now)
        gate_publish(worker)


def worker_pace(worker: Worker, *, check_interval_s: float) -> None:
    """How often it posts from now on; its next status answer tells it."""
    if check_interval_s < 0.05:
        raise Invalid(f"check_interval_s is {check_interval_s:g}", hint="use at least 0.05 seconds")
    with transaction.atomic():
        Worker.objects.filter(pk=worker.pk).update(check_interval_s=check_interval_s)
        gate_publish(worker)
    worker.check_interval_s = check_interval_s


def _leave(
    worker: Worker, state: WorkerState, *, reason: Reason, by: str, now: datetime, **columns: str
) -> None:
    with transaction.atomic():
        was_listening = worker.state in LISTENING
        advance(worker, state, reason=reason, by=by, now=now, due_at=None, **columns)
        dispatches_withdraw(worker, reason=because("worker_away", state=str(state)), now=now)
        orders_publish([worker.pk])
        if was_listening:
            signals.worker_away.send(sender=Worker, worker=worker, now=now)
