"""Kaggle sessions that the control plane starts itself: intent written, pushed once, followed until they are over.

The notebook is the one that people download, private, with a one-use join token in it. It stays readable in the
notebook's versions at Kaggle, which is why the token is good once and for an hour. Nothing is ever pushed twice: a
push whose answer was lost is looked for by its version, and made again only when it has not been there for long.
A start whose worker has joined is running, whatever Kaggle's API says, or does not say, meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F, Max
from django.utils import timezone

from core.errors import Busy, DomainError, Invalid, TransitionRefused
from core.reasons import Reason, because
from core.text import storable
from core.tokens import digest
from core.transitions import advance
from pool.models import Account, EnrollmentToken, EnrollmentUse, NotebookStart
from pool.notebooks import notebook
from pool.providers.kaggle import Kaggle, KaggleRefused, KaggleUnknown, Push, Run, RunStatus
from pool.providers.kaggle_log import last_word
from pool.services.enrollment import enrollment_token_issue
from pool.services.kaggle_accounts import kaggle_of
from pool.services.terms import TermsNotAcknowledged
from pool.states import StartState, WorkerState

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]

LOOK_EVERY = {
    StartState.PUSHING: timedelta(seconds=60),
    StartState.QUEUED: timedelta(seconds=30),
    StartState.RUNNING: timedelta(minutes=2),
}
SETTLES_IN = timedelta(seconds=90)
"""Before that, "over" may still be said of the version before this one."""
NO_COUNTS_AFTER = timedelta(minutes=3)
"""Kaggle answers 403 for a notebook that is not there, and for a passing trouble with a right or a token. "No such
notebook", or a token that is not taken, is believed when nothing else was said for this long."""
CLAIM = timedelta(minutes=3)
"""Longer than one row's calls can take: meanwhile no other tick takes the row up. Renewed before the push."""

SHUTDOWN_SLACK_S = 15 * 60
"""What the session's timeout at Kaggle leaves beyond the agent's own end: its graces, and the start of the machine."""
SESSION_LIMIT_H = 9.0
"""Where the account names no limit."""
OUTPUT_LIMIT = 16_000


class _TakenOver(Exception):
    """Somebody else has moved the row, or taken it up after this look's claim was over."""


def start_step(row: NotebookStart, *, clock: Clock = timezone.now) -> None:
    """One look at the provider, and what follows from it. Two at once are safe: the row is won by one guarded UPDATE,
    and whoever is so slow that the row was taken up by another writes nothing, and pushes nothing, any more.

    clock: the time, asked for at each decision: the rows before this one may have taken minutes.
    """
    claim = clock() + CLAIM
    mine = NotebookStart.objects.filter(pk=row.pk, state=row.state, next_at=row.next_at)
    if mine.update(next_at=claim) != 1:
        return
    row.next_at = claim
    try:
        _step(row, clock=clock)
    except (_TakenOver, TransitionRefused) as error:
        log.info("start=%s left to whoever has moved it meanwhile: %s", row.pk, error)


def _step(row: NotebookStart, *, clock: Clock) -> None:
    _find_worker(row)
    if row.worker is not None and row.state != StartState.RUNNING:
        _advance(row, StartState.RUNNING, _joined(row), now=clock())
        return
    if row.state_deadline is not None and row.state_deadline <= clock():
        _overdue(row, now=clock())
        return
    try:
        kaggle = kaggle_of(row.account)
        owner = row.provider_owner or kaggle.owner()
        if owner != row.provider_owner:
            _keep(row, provider_owner=owner)
        if row.state == StartState.PUSHING:
            _push(row, kaggle, clock=clock)
        else:
            _follow(row, kaggle, clock=clock)
    except (TermsNotAcknowledged, Invalid) as error:
        _give_up(row, because("start_refused", error=_text(error)), now=clock())
    except KaggleRefused as error:
        if row.state == StartState.PUSHING and row.token_id is None:
            _give_up(row, because("start_refused", error=_text(error)), now=clock())
        else:
            unread = because("start_unread", error=_text(error))
            _denied(row, because("start_refused", error=_text(error)), meanwhile=unread, now=clock())
    except (Busy, KaggleUnknown) as error:
        doubt = isinstance(error, KaggleUnknown) and row.token_id is not None
        code = "start_unread" if row.state != StartState.PUSHING else "start_doubt" if doubt else "start_busy"
        after = max(LOOK_EVERY[StartState(row.state)], timedelta(seconds=error.retry_after_s))
        _keep(row, next_at=clock() + after, **row.reason_columns(because(code, error=_text(error))))


# -- pushing ----------------------------------------------------------------------------------------


def _push(row: NotebookStart, kaggle: Kaggle, *, clock: Clock) -> None:
    version = kaggle.version(row.provider_owner, row.slug)
    if row.token is not None:
        if version is not None and version > (row.version_before or 0):
            found = because("start_found", version=version)
            _advance(row, StartState.QUEUED, found, now=clock(), version=version, denied_since=None)
            return
        if not _is_lost(row, version, now=clock()):
            _look_again(row, because("start_sought"), now=clock())
            return
    if not Account.objects.filter(pk=row.account_id, enabled=True).exists():
        raise Invalid(f"account {row.account} is switched off", hint="PATCH it with enabled=true")
    # Whatever was pushed before and never arrived must not open anything either.
    token_void(row)
    plain = enrollment_token_issue(account=row.account, by=row.by, now=clock())
    token = EnrollmentToken.objects.get(sha256=digest(plain))
    before = max(version or 0, _newest_known(row))
    # The intent, before the call, and only while the row is ours: from here on an answer that is lost leaves a doubt,
    # and the next look settles it.
    _keep(row, token=token, version_before=before, denied_since=None, next_at=clock() + CLAIM)
    try:
        pushed = kaggle.push(
            row.provider_owner,
            Push(
                slug=row.slug,
                title=row.slug,
                notebook=notebook(
                    "kaggle", SERVER_URL=settings.PUBLIC_URL, JOIN_TOKEN=plain, WORKER_NAME=row.name
                ),
                accelerator=row.accelerator,
                session_timeout_s=session_timeout_s(row.account),
            ),
        )
    except KaggleRefused as error:
        _give_up(row, because("start_refused", error=_text(error)), now=clock())
        return
    except Busy:
        # Nothing was done: there is nothing to look for.
        token_void(row)
        _keep(row, token=None)
        raise
    number = pushed.version or before + 1
    reason = because("start_pushed", version=number)
    _advance(row, StartState.QUEUED, reason, now=clock(), version=number, url=pushed.url)


def _is_lost(row: NotebookStart, version: int | None, *, now: datetime) -> bool:
    """Whether a push whose answer was lost has surely not arrived: it was looked for long enough."""
    if version is not None:
        since = row.token.created_at
        _keep(row, denied_since=None)
    else:
        since = row.denied_since or now
        _keep(row, denied_since=since)
    return now - since >= NO_COUNTS_AFTER


def _newest_known(row: NotebookStart) -> int:
    """The newest version that we have seen of this notebook, for a look at Kaggle that shows none by mistake."""
    same = NotebookStart.objects.filter(account_id=row.account_id, slug=row.slug)
    found = same.filter(provider_owner=row.provider_owner).aggregate(newest=Max("version"))
    return found["newest"] or 0


def session_timeout_s(account: Account) -> int:
    """When Kaggle is to end the session by itself: after the agent's own end, not after the account's limit."""
    limit_s = 3600 * (account.session_limit_h or SESSION_LIMIT_H)
    if account.session_shutdown_h is None:
        return int(limit_s)
    return int(min(limit_s, 3600 * account.session_shutdown_h + SHUTDOWN_SLACK_S))


# -- following --------------------------------------------------------------------------------------


def _follow(row: NotebookStart, kaggle: Kaggle, *, clock: Clock) -> None:
    run = kaggle.run(row.provider_owner, row.slug)
    now = clock()
    if run is None:
        minutes = int(NO_COUNTS_AFTER.total_seconds() // 60)
        _denied(row, because("start_gone"), meanwhile=because("start_absent", minutes=minutes), now=now)
        return
    _keep(row, provider_status=run.status, denied_since=None)
    if row.version is None:
        # Its worker joined before the push was seen.
        _keep(row, version=kaggle.version(row.provider_owner, row.slug))
    if run.status in (RunStatus.QUEUED, RunStatus.NEW_SCRIPT):
        _look_again(row, _joined(row) if row.worker else because("start_waits"), now=now)
    elif run.status in (RunStatus.RUNNING, RunStatus.CANCEL_REQUESTED):
        reason = _joined(row) if row.worker else because("start_runs")
        if row.state == StartState.QUEUED:
            _advance(row, StartState.RUNNING, reason, now=now)
        else:
            _look_again(row, reason, now=now)
    elif row.state == StartState.QUEUED and now - row.state_since < SETTLES_IN:
        _look_again(row, because("start_waits"), now=now)
    elif _is_at_work(row):
        _look_again(row, _joined(row), now=now)
    else:
        _keep(row, output=_output(row, kaggle))
        _over(row, run, now=clock())


def _denied(row: NotebookStart, reason: Reason, *, meanwhile: Reason, now: datetime) -> None:
    """Kaggle says no: there is no such notebook, or we may not know. It is believed when it has said so for long."""
    since = row.denied_since or now
    _keep(row, denied_since=since)
    if now - since < NO_COUNTS_AFTER:
        _look_again(row, meanwhile, now=now)
    elif row.worker is None:
        _give_up(row, reason, now=now)
    elif _is_at_work(row):
        _look_again(row, _joined(row), now=now)
    else:
        _end(row, StartState.ENDED, reason, now=now)


def _output(row: NotebookStart, kaggle: Kaggle) -> str:
    """The end of what it printed. That it is over is known; an output that cannot be read does not hold that up."""
    try:
        return str(storable(kaggle.output(row.provider_owner, row.slug)))[-OUTPUT_LIMIT:]
    except (Busy, KaggleUnknown, KaggleRefused) as error:
        return f"what it printed could not be read: {error.message}"


def _over(row: NotebookStart, run: Run, *, now: datetime) -> None:
    _find_worker(row)  # it may have come and gone since
    if run.status == RunStatus.ERROR:
        error = run.failure or last_word(row.output) or "Kaggle does not say why"
        _end(row, StartState.FAILED, because("start_broke", error=storable(error)), now=now)
    elif run.status == RunStatus.CANCEL_ACKNOWLEDGED:
        _end(row, StartState.ENDED, because("start_cancelled"), now=now)
    elif row.worker is None:
        error = last_word(row.output) or "it printed nothing"
        _end(row, StartState.FAILED, because("start_never_joined", error=error), now=now)
    else:
        _end(row, StartState.ENDED, because("start_over"), now=now)


def _overdue(row: NotebookStart, *, now: datetime) -> None:
    limit = row.TABLE.limits[row.state]
    reason = because("time_limit", state=row.state, minutes=limit.minutes)
    if limit.then == StartState.ENDED:
        _end(row, StartState.ENDED, reason, now=now)
    else:
        _give_up(row, reason, now=now)


# -- who has joined ---------------------------------------------------------------------------------


def token_use(row: NotebookStart) -> EnrollmentUse | None:
    """Who has traded the token that was put into the notebook."""
    if row.token_id is None:
        return None
    return EnrollmentUse.objects.filter(token_id=row.token_id).select_related("worker").first()


def token_void(row: NotebookStart) -> None:
    """A token that was not used stays in the notebook's history at Kaggle; it opens nothing any more."""
    if row.token_id is not None:
        EnrollmentToken.objects.filter(pk=row.token_id).update(uses_left=0)


def _find_worker(row: NotebookStart) -> None:
    if row.worker_id is None and (use := token_use(row)) is not None:
        _keep(row, worker=use.worker)


def _is_at_work(row: NotebookStart) -> bool:
    """Whether the worker that joined is heard from, in this very session."""
    uses = EnrollmentUse.objects.filter(token_id=row.token_id, epoch=F("worker__epoch"))
    return uses.filter(worker__state__in=[WorkerState.ONLINE, WorkerState.DRAINING]).exists()


def _joined(row: NotebookStart) -> Reason:
    return because("start_joined", worker=row.worker.name)


# -- writing ----------------------------------------------------------------------------------------


def _advance(row: NotebookStart, to: StartState, reason: Reason, *, now: datetime, **changes: object) -> None:
    advance(row, to, reason=reason, now=now, next_at=now + LOOK_EVERY[to], **changes)


def _give_up(row: NotebookStart, reason: Reason, *, now: datetime) -> None:
    """It failed, unless its worker joined while we asked: with the token void, nobody can after this look."""
    with transaction.atomic():
        token_void(row)
        _find_worker(row)
        if row.worker is None:
            _end(row, StartState.FAILED, reason, now=now)
        elif row.state == StartState.RUNNING:
            _look_again(row, _joined(row), now=now)
        else:
            _advance(row, StartState.RUNNING, _joined(row), now=now)


def _end(row: NotebookStart, to: StartState, reason: Reason, *, now: datetime) -> None:
    with transaction.atomic():
        token_void(row)
        advance(row, to, reason=reason, now=now, next_at=None, ended_at=now)


def _look_again(row: NotebookStart, reason: Reason, *, now: datetime) -> None:
    _keep(row, next_at=now + LOOK_EVERY[StartState(row.state)], **row.reason_columns(reason))


def _keep(row: NotebookStart, **columns: object) -> None:
    """Raises _TakenOver where the row is not this look's any more."""
    mine = NotebookStart.objects.filter(pk=row.pk, state=row.state, next_at=row.next_at)
    if mine.update(**columns) != 1:
        raise _TakenOver(f"it is not {row.state} any more, or due at another time")
    for name, value in columns.items():
        setattr(row, name, value)


def _text(error: DomainError) -> str:
    return storable(f"{error.message}. {error.hint}".strip(". ") if error.hint else error.message)
