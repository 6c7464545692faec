"""Kaggle sessions that are asked for, and taken back; `kaggle_steps` pushes and follows them."""

from __future__ import annotations

import re
from datetime import datetime

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from core.doorbell import ring
from core.errors import DomainError, Invalid
from core.places import is_near
from core.reasons import because
from core.text import storable
from core.transitions import advance, event_add
from pool.models import Account, NotebookStart
from pool.services.enrollment import NAME_LIMIT
from pool.services.kaggle_accounts import kaggle_of
from pool.services.kaggle_steps import token_use, token_void
from pool.services.terms import terms_require
from pool.states import StartState

TICK = "pool.kaggle_tick"

DEFAULT_ACCELERATOR = "NvidiaTeslaT4"
"""Two T4. Kaggle's present PyTorch has no code for the P100 any more."""
ACCELERATORS = (DEFAULT_ACCELERATOR, "NvidiaTeslaP100")


def start_request(
    *,
    account: Account,
    name: str,
    by: str,
    accelerator: str = DEFAULT_ACCELERATOR,
    now: datetime | None = None,
) -> NotebookStart:
    """Write down that a session of this account is wanted, to join as worker `name`. The tick does the rest.

    Raises Invalid (no Kaggle account, switched off, a name that is none, no address that Kaggle could reach), TermsNotAcknowledged, KaggleRefused where
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
    _require_reachable()
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


def start_cancel(*, row: NotebookStart, by: str, now: datetime | None = None) -> NotebookStart:
    """Take back a start that nobody has joined from: its token opens nothing any more.

    Kaggle offers no way to end a session by its notebook. Where it starts one all the same, the notebook in it is
    refused, and ends within a minute or two. Raises DomainError `start_joined` where its worker has joined already,
    TransitionRefused where it is over.
    """
    now = now or timezone.now()
    with transaction.atomic():
        held = NotebookStart.objects.select_for_update().get(pk=row.pk)
        token_void(held)
        use = token_use(held)
        if held.next_at is not None and use is not None:
            raise DomainError(
                f"it has joined as {use.worker.name} already",
                hint=f"POST /api/workers/{use.worker_id}/revoke ends the session; drain the worker first, and its jobs"
                " end in peace",
                code="start_joined",
            )
        reason = because("start_withdrawn", by=by)
        advance(held, StartState.ENDED, reason=reason, by=by, now=now, next_at=None, ended_at=now)
    return held


def _require_reachable() -> None:
    # A Kaggle that is as near as we are, as in tests, reaches us where we are.
    if is_near(settings.PUBLIC_URL) and not is_near(settings.KAGGLE_API_URL):
        raise Invalid(
            f"a session at Kaggle could not reach this server: its address is {settings.PUBLIC_URL}, which leads nowhere"
            " from there",
            hint="set DORMOUSE_PUBLIC_URL to the address under which the internet reaches this server, and restart it",
            code="not_reachable",
        )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")
