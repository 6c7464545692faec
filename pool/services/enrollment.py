"""How a machine becomes a worker and stays one: join tokens, enrolment, rotating secrets, the gate of the agent API."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from django.db import IntegrityError, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone

from agent import wire
from core.agents import AgentIdentity
from core.errors import Forbidden, Invalid, StandDown
from core.reasons import because
from core.text import storable
from core.tokens import digest, secret_new
from core.transitions import event_add
from pool import growth, signals
from pool.models import Account, EnrollmentToken, EnrollmentUse, Session, Worker
from pool.services import direct_redis
from pool.services.credentials import credentials, epoch_of, matches, secret_after, secret_first
from pool.services.publish import gate_publish
from pool.services.standings import standings_write
from pool.services.terms import terms_of, terms_require
from pool.services.workers import worker_offline, worker_revoke
from pool.sessions import limit_s, session_columns, session_known
from pool.states import WorkerState
from pool.terms import TERMS

log = logging.getLogger(__name__)

TOKEN_PREFIX = "dj_"
"""So that secret scanners, and people, recognise a join token."""

TOKEN_LIFE = timedelta(hours=1)
SAME_SESSION = timedelta(minutes=2)
"""Two enrolments of one worker whose machines say that they began within this are one session of one machine."""

JOINING = timedelta(hours=1)
"""So long may a machine that has joined take until its first post."""

NAME_LIMIT = 80


class EnrollmentRefused(Forbidden):
    """This token makes no worker. The same request will be refused again."""

    code = "enrollment_refused"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint or "make a new join token: POST /api/enrollment-tokens")


def enrollment_token_issue(
    *,
    account: Account,
    worker: Worker | None = None,
    epoch: int | None = None,
    uses: int = 1,
    life: timedelta = TOKEN_LIFE,
    by: str = "",
    now: datetime | None = None,
) -> str:
    """A join token in plain text, which nobody will ever see again; only its hash is kept.

    worker and epoch: the identity that the enrolment takes up, in that epoch (the next one where epoch is None), for a
    rented box. Without a worker, each use makes a worker of `account`, or the next epoch of the one with that name.
    Raises TermsNotAcknowledged where nobody has acknowledged yet what the account's provider forbids.
    """
    now = now or timezone.now()
    if uses < 1 or life <= timedelta(0):
        raise Invalid(
            f"a token of {uses} uses and {life} life is none", hint="at least one use, and some time"
        )
    if worker is not None and uses != 1:
        raise Invalid("a token that is bound to a worker is used once")
    terms_require(account)
    plain = TOKEN_PREFIX + secret_new()
    EnrollmentToken.objects.create(
        sha256=digest(plain),
        account=account,
        worker=worker,
        epoch=epoch,
        uses_left=uses,
        expires_at=now + life,
        created_by=by,
        created_at=now,
    )
    return plain


def worker_enroll(*, post: wire.EnrollPost, now: datetime | None = None) -> wire.Credentials:
    """Trade a join token for an identity. The same token with the same request_id is the same enrolment asked again.

    The worker is offline until its first status post. An earlier session of it ends: what it held is withdrawn.
    A session at a provider of notebooks joins an account of that kind only: the account is what carries the provider's
    terms and its limits. A machine that does not say where it is, or is one's own, may join any account, and is held to
    its terms and limits. Raises EnrollmentRefused (unknown, expired, used up, of another kind of account, of one that is
    switched off; the token is not used up by the last two), TermsNotAcknowledged where they have changed since the
    token was made, StandDown where a newer box has taken the identity up.
    """
    now = now or timezone.now()
    with transaction.atomic():
        token = EnrollmentToken.objects.select_for_update().filter(sha256=digest(post.token)).first()
        if token is None:
            raise EnrollmentRefused("this join token is unknown")
        again = _asked_again(token, post)
        if again is not None:
            worker = again
        else:
            _require_kind(token.account, post.provider)
            _require_enabled(token)
            terms_require(token.account)
            _use_up(token, now=now)
            worker = _identity(token, post, now=now)
            _begin_epoch(worker, token, post, now=now)
        secret = secret_first(worker.pk, worker.epoch, token=post.token, request_id=post.request_id)
        gate_publish(worker)
    return credentials(worker, secret=secret, now=now)


def token_refresh(*, post: wire.TokenPost, now: datetime | None = None) -> wire.Credentials:
    """Trade a worker's secret for an access token and the next secret.

    The secret that is sent stays good until the next one was used; asked again with it, the answer is the same. One
    that was replaced and then used again revokes the worker. Raises StandDown for a revoked or retired worker and for
    a secret of an older epoch, Forbidden for any other secret that is not its own.
    """
    now = now or timezone.now()
    reused = False
    with transaction.atomic():
        worker = Worker.objects.select_for_update().filter(pk=post.worker_id).first()
        if worker is None or not worker.secret_sha256:
            raise StandDown(
                f"worker {post.worker_id} has no say any more", hint="enrol again with a new join token"
            )
        if matches(post.secret, worker.retired_secret_sha256):
            worker_revoke(worker, reason=because("secret_reused"), now=now)
            reused = True
        else:
            secret = _rotate(worker, post.secret)
            gate_publish(worker)
    if reused:
        log.warning("worker=%s revoked: a retired secret was used again", worker.pk)
        raise StandDown(
            f"worker {worker.pk} was revoked: its old secret was used again", hint="enrol it again"
        )
    return credentials(worker, secret=secret, now=now)


def gate(identity: AgentIdentity) -> None:
    """Raises StandDown where that worker, in that epoch, has no say: unknown, revoked, retired, or a newer box exists."""
    rows = Worker.objects.exclude(secret_sha256="").values_list("epoch", flat=True)
    try:
        epoch = rows.get(pk=identity.worker_id)
    except Worker.DoesNotExist:
        raise StandDown(f"worker {identity.worker_id} has no say any more", hint="stop its work") from None
    if epoch != identity.epoch:
        raise StandDown(
            f"worker {identity.worker_id} is in epoch {epoch}, not {identity.epoch}", hint="stop its work"
        )


def _rotate(worker: Worker, secret: str) -> str:
    """The secret to answer with; the rows say afterwards that it may be used."""
    following = secret_after(worker.pk, worker.epoch, secret)
    if matches(secret, worker.secret_sha256):
        changes = {"next_secret_sha256": digest(following)}
    elif matches(secret, worker.next_secret_sha256):
        changes = {
            "retired_secret_sha256": worker.secret_sha256,
            "secret_sha256": worker.next_secret_sha256,
            "next_secret_sha256": digest(following),
        }
    else:
        epoch = epoch_of(secret)
        if epoch is not None and epoch < worker.epoch:
            raise StandDown(f"worker {worker.pk} is in epoch {worker.epoch}, this secret is of epoch {epoch}")
        raise Forbidden(
            f"this is not the secret of worker {worker.pk}",
            hint="enrol again with a new join token",
            code="secret_refused",
        )
    Worker.objects.filter(pk=worker.pk).update(**changes)
    return following


def _asked_again(token: EnrollmentToken, post: wire.EnrollPost) -> Worker | None:
    """The worker of this very request, as long as what was answered then has not been used to refresh."""
    if not post.request_id:
        return None
    use = (
        EnrollmentUse.objects.filter(token=token, request_id=post.request_id).select_related("worker").first()
    )
    if use is None:
        return None
    secret = secret_first(use.worker_id, use.epoch, token=post.token, request_id=post.request_id)
    if use.worker.epoch != use.epoch or not matches(secret, use.worker.secret_sha256):
        raise EnrollmentRefused("this enrolment was answered before, and what it gave is in use or over")
    return use.worker


def _require_kind(account: Account, provider: str) -> None:
    if provider in TERMS and provider != account.kind:
        place = Account.Kind(provider).label
        raise EnrollmentRefused(
            f"this is a session at {place}, and its join token is of {account}, which is a {account.kind} account:"
            f" {place}'s terms and limits would not be kept",
            hint=f"make a join token of a {provider} account: POST /api/enrollment-tokens",
        )


def _require_enabled(token: EnrollmentToken) -> None:
    # A rented box is paid for and holds somebody's workspace: it is let in, so that it can be put to sleep.
    if token.worker_id is None and not token.account.enabled:
        raise EnrollmentRefused(
            f"account {token.account} is switched off",
            hint=f"PATCH /api/accounts/{token.account_id} with enabled=true",
        )


def _use_up(token: EnrollmentToken, *, now: datetime) -> None:
    left = EnrollmentToken.objects.filter(pk=token.pk, uses_left__gt=0, expires_at__gt=now)
    if left.update(uses_left=F("uses_left") - 1) != 1:
        raise EnrollmentRefused(
            "this join token has expired" if token.uses_left else "this join token was used already"
        )


def _identity(token: EnrollmentToken, post: wire.EnrollPost, *, now: datetime) -> Worker:
    """The row that this enrolment takes up, locked. Its epoch is still the one before."""
    if token.worker_id is not None:
        worker = Worker.objects.select_for_update().get(pk=token.worker_id)
        epoch = token.epoch if token.epoch is not None else worker.epoch + 1
        used = Session.objects.filter(worker=worker, epoch__gte=epoch).exists()
        if worker.state == WorkerState.REVOKED or epoch < worker.epoch or used:
            raise StandDown(
                f"a newer box has taken up worker {worker.pk}", hint="this box is not needed any more"
            )
        return worker
    name = storable(post.name).strip()[:NAME_LIMIT]
    if name:
        known = Worker.objects.select_for_update().filter(account_id=token.account_id, name=name)
        worker = known.exclude(state=WorkerState.REVOKED).first()
        if worker is not None and worker.instance_ref:
            raise EnrollmentRefused(f"{name!r} is the worker of a rented instance")
        if worker is not None:
            if not worker.named:
                # Somebody calls it so: it is no place for whoever comes without a name.
                Worker.objects.filter(pk=worker.pk).update(named=True)
            return worker
    return (None if name else _place_left(token.account, now=now)) or _new(token.account, name, now=now)


def _place_left(account: Account, *, now: datetime) -> Worker | None:
    """The worker that a notebook without a name takes up, locked: another of its account that has gone; None: all run.

    Each time that a person opens her notebook anew would be another worker else. One that joined a moment ago and has
    not posted yet is not gone. One that is lost may still run: it is told to stand down then, and its jobs run elsewhere
    already.
    """
    if terms_of(account) is None:
        return None
    # Two that join at the same moment do not take the same place: what the other has done is seen after this lock.
    Account.objects.select_for_update(no_key=True).get(pk=account.pk)
    joined = EnrollmentUse.objects.filter(
        worker=OuterRef("pk"), epoch=OuterRef("epoch"), used_at__gt=now - JOINING
    )
    ended = Session.objects.filter(worker=OuterRef("pk"), epoch=OuterRef("epoch"), ended_at__isnull=False)
    gone = Worker.objects.filter(
        Q(state=WorkerState.LOST) | Q(Exists(ended) | ~Exists(joined), state=WorkerState.OFFLINE),
        account=account,
        instance_ref="",
        named=False,
    )
    # Those that are known to be over first: "offline" comes after "lost".
    worker_id = gone.order_by("-state", "-state_since", "pk").values_list("pk", flat=True).first()
    return Worker.objects.select_for_update().get(pk=worker_id) if worker_id is not None else None


def _new(account: Account, name: str, *, now: datetime) -> Worker:
    number = Worker.objects.filter(account=account).count() + 1
    while True:
        try:
            with transaction.atomic():
                worker = Worker.objects.create(
                    account=account,
                    name=name or f"{account.label}-{number}"[-NAME_LIMIT:],
                    named=bool(name),
                    check_interval_s=account.check_interval_s,
                    state=WorkerState.OFFLINE,
                    state_since=now,
                    created_at=now,
                    **Worker.reason_columns(because("worker_enrolled", account=str(account))),
                )
                return worker
        except IntegrityError:
            if name:
                # Another enrolment made it a moment ago: this one is its next epoch.
                return Worker.objects.select_for_update().get(account=account, name=name)
            number += 1


def _begin_epoch(worker: Worker, token: EnrollmentToken, post: wire.EnrollPost, *, now: datetime) -> None:
    runtime_s = 3600 * (post.session_runtime_hours or 0.0)
    if growth.is_too_long(runtime_s, limit_s(token.account)):
        log.warning(
            "worker=%s says that it has run for %.1f h: more than its provider allows, and not believed",
            worker.pk, runtime_s / 3600,
        )  # fmt: skip
        runtime_s = 0.0
    worker_offline(
        worker, reason=because("new_session"), now=now, ended_at=now - timedelta(seconds=runtime_s)
    )
    before = worker.sessions.order_by("-epoch").first()
    epoch = token.epoch if token.epoch is not None else worker.epoch + 1
    secret = secret_first(worker.pk, epoch, token=post.token, request_id=post.request_id)
    changes = {
        "epoch": epoch,
        "secret_sha256": digest(secret),
        "next_secret_sha256": "",
        "retired_secret_sha256": "",
        "drain_asked_at": None,
        "saved_ref": "",
        "agent_version": storable(post.agent_version)[:40],
        "platform": storable(
            " ".join(filter(None, [post.platform, post.python and f"Python {post.python}"]))
        )[:120],
        "gpu_count": min(len(post.gpus), 32_767),
        "gpu_name": storable(post.gpus[0].name)[:80] if post.gpus else "",
        "gpu_mem_bytes": min((gpu.mem_total_bytes or 0 for gpu in post.gpus), default=0),
    }
    Worker.objects.filter(pk=worker.pk).update(**changes)
    for name, value in changes.items():
        setattr(worker, name, value)
    # Its own box gets a user with the answer; one of an earlier epoch must not go on taking from the queue.
    transaction.on_commit(partial(direct_redis.withdraw, worker.pk), robust=True)
    _session_open(worker, before, runtime_s=runtime_s, now=now)
    standings_write([worker], now=now)
    EnrollmentUse.objects.create(
        token=token, request_id=post.request_id[:80], worker=worker, epoch=epoch, used_at=now
    )
    reason = because("worker_enrolled", account=str(token.account))
    event_add(worker, "worker_enrolled", reason=reason, now=now, data={"epoch": epoch})
    log.info("worker=%s name=%r epoch=%d enrolled account=%s", worker.pk, worker.name, epoch, token.account)
    signals.worker_online.send(sender=Worker, worker=worker, now=now)


def _gap_tell(worker: Worker, unheard_s: float, *, now: datetime) -> None:
    """Its next post proves these hours, and is the first of its epoch: nobody would see then how long it was silent."""
    if unheard_s > growth.GAP_S:
        reason = because("session_gap", gap_h=unheard_s / 3600)
        event_add(worker, "session_gap", reason=reason, now=now, data={"gap_s": unheard_s})
        log.warning("worker=%s %s", worker.pk, reason)


def _session_open(worker: Worker, before: Session | None, *, runtime_s: float, now: datetime) -> None:
    """The session of the new epoch. A machine that enrols twice is one session: what was counted stays counted."""
    started_at = now - timedelta(seconds=runtime_s)
    known = growth.Session(started_at=started_at)
    if before is not None and abs(before.started_at - started_at) < SAME_SESSION:
        same = session_known(before, at=now)
        # One that began after the end of what is proven of the other is another one, however short that was.
        if started_at <= same.proven_until + growth.SLACK:
            known = replace(same, ended_at=None)
            _gap_tell(worker, runtime_s - same.counted_s, now=now)
    Session.objects.create(
        worker=worker,
        epoch=worker.epoch,
        **{**session_columns(known), "runtime_s": runtime_s, "last_post_at": None},
    )
