"""Kaggle sessions that the control plane starts itself: intent written, pushed once, followed until they are over.

The notebook is the one that people download, private, with a one-use join token in it. It stays readable in the
notebook's versions at Kaggle, which is why the token is good once and for an hour. Nothing is ever pushed twice: a
push whose answer was lost is looked for by its version first.
"""

from __future__ import annotations

import logging
import re
from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from core.doorbell import ring
from core.errors import Busy, DomainError, Invalid
from core.reasons import Reason, because
from core.text import storable
from core.tokens import digest
from core.transitions import advance, event_add
from pool.models import Account, EnrollmentToken, EnrollmentUse, NotebookStart
from pool.notebooks import notebook
from pool.providers.kaggle import Kaggle, KaggleRefused, KaggleUnknown, Push, Run, RunStatus
from pool.services.enrollment import NAME_LIMIT, enrollment_token_issue
from pool.services.kaggle_accounts import kaggle_of
from pool.services.terms import TermsNotAcknowledged, terms_require
from pool.states import StartState

log = logging.getLogger(__name__)

TICK = "pool.kaggle_tick"

DEFAULT_ACCELERATOR = "NvidiaTeslaT4"
"""Two T4. Kaggle's present PyTorch has no code for the P100 any more."""
ACCELERATORS = (DEFAULT_ACCELERATOR, "NvidiaTeslaP100")

LOOK_EVERY = {
    StartState.PUSHING: timedelta(seconds=60),
    StartState.QUEUED: timedelta(seconds=30),
    StartState.RUNNING: timedelta(minutes=2),
}
SETTLES_IN = timedelta(seconds=90)
"""Before that, "over" may still be said of the version before this one."""
CLAIM = timedelta(minutes=3)
"""Longer than one step with its calls can take: meanwhile no other tick takes the row up."""

SHUTDOWN_SLACK_S = 15 * 60
"""What the session's timeout at Kaggle leaves beyond the agent's own end: its graces, and the start of the machine."""
SESSION_LIMIT_H = 9.0
"""Where the account names no limit."""
OUTPUT_LIMIT = 16_000


def start_request(
    *,
    account: Account,
    name: str,
    by: str,
    accelerator: str = DEFAULT_ACCELERATOR,
    now: datetime | None = None,
) -> NotebookStart:
    """Write down that a session of this account is wanted, to join as worker `name`. The tick does the rest.

    Raises Invalid (no Kaggle account, switched off, a name that is none), TermsNotAcknowledged, KaggleRefused where
    the account holds no Kaggle token, DomainError `start_open` where a start under that name is under way.
    """
    now = now or timezone.now()
    name = storable(name).strip()
    if account.kind != Account.Kind.KAGGLE:
        raise Invalid(
            f"sessions are started at Kaggle only, and {account} is none of its accounts",
            hint="start a Colab runtime by its notebook: the account's page has it",
        )
    if not account.enabled:
        raise Invalid(f"account {account} is switched off", hint="PATCH it with enabled=true")
    if not _slug(name) or len(name) > NAME_LIMIT:
        raise Invalid(
            f"{name[:NAME_LIMIT]!r} is no worker's name", hint=f"letters and digits, at most {NAME_LIMIT}"
        )
    if accelerator not in ACCELERATORS:
        raise Invalid(f"accelerator {accelerator!r} is not one of {', '.join(ACCELERATORS)}")
    terms_require(account)
    kaggle_of(account)  # a token that is missing is said now, not in the background
    reason = because("start_asked", by=by)
    try:
        with transaction.atomic():
            row = NotebookStart.objects.create(
                account=account,
                name=name,
                slug=f"dormouse-{_slug(name)}",
                accelerator=accelerator,
                by=by,
                state=StartState.PUSHING,
                state_since=now,
                created_at=now,
                next_at=now,
                **NotebookStart.reason_columns(reason),
            )
            event_add(row, "start_asked", reason=reason, by=by, now=now, to_state=StartState.PUSHING)
            ring(TICK)
    except IntegrityError as error:
        raise DomainError(
            f"a session of {account} is being started as {name!r}, or as what Kaggle calls the same, already",
            hint="wait until it has ended, or choose another name",
            code="start_open",
        ) from error
    return row


def starts_due(*, now: datetime, limit: int = 20) -> QuerySet[NotebookStart]:
    """Those to look at, longest due first."""
    return (
        NotebookStart.objects.filter(next_at__lte=now).select_related("account").order_by("next_at")[:limit]
    )


def start_step(row: NotebookStart, *, now: datetime | None = None) -> None:
    """One look at the provider, and what follows from it. Two at once are safe: the row is won by one guarded UPDATE."""
    now = now or timezone.now()
    mine = NotebookStart.objects.filter(pk=row.pk, state=row.state, next_at=row.next_at)
    if mine.update(next_at=now + CLAIM) != 1:
        return
    _find_worker(row)
    if row.state_deadline is not None and row.state_deadline <= now:
        _overdue(row, now=now)
        return
    try:
        kaggle = kaggle_of(row.account)
        owner = row.provider_owner or kaggle.owner()
        if owner != row.provider_owner:
            _keep(row, provider_owner=owner)
        if row.state == StartState.PUSHING:
            _push(row, kaggle, now=now)
        else:
            _follow(row, kaggle, now=now)
    except (KaggleRefused, TermsNotAcknowledged) as error:
        _end(row, StartState.FAILED, because("start_refused", error=_text(error)), now=now)
    except (Busy, KaggleUnknown) as error:
        doubt = isinstance(error, KaggleUnknown) and row.token_id is not None
        code = "start_unread" if row.state != StartState.PUSHING else "start_doubt" if doubt else "start_busy"
        after = max(LOOK_EVERY[StartState(row.state)], timedelta(seconds=error.retry_after_s))
        _keep(row, next_at=now + after, **row.reason_columns(because(code, error=_text(error))))


# -- pushing ----------------------------------------------------------------------------------------


def _push(row: NotebookStart, kaggle: Kaggle, *, now: datetime) -> None:
    version = kaggle.version(row.provider_owner, row.slug)
    if row.token_id is not None and version > (row.version_before or 0):
        found = because("start_found", version=version)
        _advance(row, StartState.QUEUED, found, now=now, version=version)
        return
    # Whatever was pushed before and never arrived must not open anything either.
    _void_token(row)
    plain = enrollment_token_issue(account=row.account, by=row.by, now=now)
    token = EnrollmentToken.objects.get(sha256=digest(plain))
    _keep(row, token=token, version_before=version)  # the intent, before the call
    # From here on an answer that is lost leaves a doubt, and the next look settles it.
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
    number = pushed.version or version + 1
    reason = because("start_pushed", version=number)
    _advance(row, StartState.QUEUED, reason, now=now, version=number, url=pushed.url)


def session_timeout_s(account: Account) -> int:
    """When Kaggle is to end the session by itself: after the agent's own end, not after the account's limit."""
    limit_s = 3600 * (account.session_limit_h or SESSION_LIMIT_H)
    if account.session_shutdown_h is None:
        return int(limit_s)
    return int(min(limit_s, 3600 * account.session_shutdown_h + SHUTDOWN_SLACK_S))


# -- following --------------------------------------------------------------------------------------


def _follow(row: NotebookStart, kaggle: Kaggle, *, now: datetime) -> None:
    run = kaggle.run(row.provider_owner, row.slug)
    if run is None:
        _end(row, StartState.FAILED, because("start_gone"), now=now)
        return
    _keep(row, provider_status=run.status)
    if run.status in (RunStatus.QUEUED, RunStatus.NEW_SCRIPT):
        _look_again(row, because("start_waits"), now=now)
    elif run.status in (RunStatus.RUNNING, RunStatus.CANCEL_REQUESTED):
        reason = because("start_joined", worker=row.worker.name) if row.worker else because("start_runs")
        if row.state == StartState.QUEUED:
            _advance(row, StartState.RUNNING, reason, now=now)
        else:
            _look_again(row, reason, now=now)
    elif row.state == StartState.QUEUED and row.worker is None and now - row.state_since < SETTLES_IN:
        _look_again(row, because("start_waits"), now=now)
    else:
        _keep(row, output=_output(row, kaggle))
        _over(row, run, now=now)


def _output(row: NotebookStart, kaggle: Kaggle) -> str:
    """The end of what it printed. That it is over is known; an output that cannot be read does not hold that up."""
    try:
        return str(storable(kaggle.output(row.provider_owner, row.slug)))[-OUTPUT_LIMIT:]
    except (Busy, KaggleUnknown) as error:
        return f"what it printed could not be read: {error.message}"


def _over(row: NotebookStart, run: Run, *, now: datetime) -> None:
    if run.status == RunStatus.ERROR:
        error = run.failure or _last_line(row.output) or "Kaggle does not say why"
        _end(row, StartState.FAILED, because("start_broke", error=storable(error)), now=now)
    elif run.status == RunStatus.CANCEL_ACKNOWLEDGED:
        _end(row, StartState.ENDED, because("start_cancelled"), now=now)
    elif row.worker is None:
        error = _last_line(row.output) or "it printed nothing"
        _end(row, StartState.FAILED, because("start_never_joined", error=error), now=now)
    else:
        _end(row, StartState.ENDED, because("start_over"), now=now)


def _find_worker(row: NotebookStart) -> None:
    """Who has traded the token that was put into the notebook."""
    if row.worker_id is None and row.token_id is not None:
        use = EnrollmentUse.objects.filter(token_id=row.token_id).select_related("worker").first()
        if use is not None:
            _keep(row, worker=use.worker)


def _overdue(row: NotebookStart, *, now: datetime) -> None:
    limit = row.TABLE.limits[row.state]
    reason = because("time_limit", state=row.state, minutes=limit.minutes)
    _end(row, StartState(limit.then or StartState.FAILED), reason, now=now)


# -- writing ----------------------------------------------------------------------------------------


def _advance(row: NotebookStart, to: StartState, reason: Reason, *, now: datetime, **changes: object) -> None:
    advance(row, to, reason=reason, now=now, next_at=now + LOOK_EVERY[to], **changes)


def _end(row: NotebookStart, to: StartState, reason: Reason, *, now: datetime) -> None:
    with transaction.atomic():
        _void_token(row)
        advance(row, to, reason=reason, now=now, next_at=None, ended_at=now)


def _look_again(row: NotebookStart, reason: Reason, *, now: datetime) -> None:
    _keep(row, next_at=now + LOOK_EVERY[StartState(row.state)], **row.reason_columns(reason))


def _keep(row: NotebookStart, **columns: object) -> None:
    NotebookStart.objects.filter(pk=row.pk).update(**columns)
    for name, value in columns.items():
        setattr(row, name, value)


def _void_token(row: NotebookStart) -> None:
    """A token that was not used stays in the notebook's history at Kaggle; it opens nothing any more."""
    if row.token_id is not None:
        EnrollmentToken.objects.filter(pk=row.token_id).update(uses_left=0)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")


def _text(error: DomainError) -> str:
    return storable(f"{error.message}. {error.hint}".strip(". ") if error.hint else error.message)


def _last_line(text: str) -> str:
    return next((line.strip()[-300:] for line in reversed(text.splitlines()) if line.strip()), "")
