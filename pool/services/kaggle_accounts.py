"""Kaggle on behalf of an account: its client, and the quota that Kaggle itself counts."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone

from core.errors import Busy
from core.text import storable
from core.ticks import step_each
from pool.models import Account, OfficialQuota
from pool.providers.kaggle import Kaggle, KaggleRefused, KaggleUnknown
from pool.services.official import Official, official_take

log = logging.getLogger(__name__)

QUOTA_EVERY = timedelta(minutes=10)
"""How old an official figure may grow. Kaggle publishes no rate limit; six reads an hour are modest."""


def kaggle_of(account: Account) -> Kaggle:
    """The account's own client. Raises KaggleRefused where it holds no token of Kaggle's."""
    held = json.loads(account.credentials) if account.credentials else {}
    texts = {name: value for name, value in held.items() if isinstance(value, str)}
    return Kaggle(base_url=settings.KAGGLE_API_URL, credentials=texts)


def has_kaggle_token(account: Account) -> bool:
    """Whether this is an account that Kaggle can be asked about."""
    if account.kind != Account.Kind.KAGGLE or not account.credentials:
        return False
    try:
        kaggle_of(account)
    except KaggleRefused:
        return False
    return True


def official_quota(account: Account) -> OfficialQuota | None:
    """What Kaggle last said of the account's week; None where it never did."""
    return OfficialQuota.objects.filter(account=account, read_at__isnull=False).first()


def quotas_due(*, now: datetime, limit: int = 20) -> QuerySet[Account]:
    """Kaggle accounts whose official figure is old; those that hold no token are told apart when they are read."""
    due = Q(official_quota__isnull=True) | Q(official_quota__tried_at__lt=now - QUOTA_EVERY)
    rows = Account.objects.filter(due, kind=Account.Kind.KAGGLE, enabled=True)
    return rows.order_by("official_quota__tried_at")[:limit]


def quotas_read(*, now: datetime) -> int:
    """Ask for all that are due; returns how many were asked. Each has its own time: Kaggle may take a while for each."""
    return step_each(lambda account: quota_read(account, now=timezone.now()), list(quotas_due(now=now)))


def quota_read(account: Account, *, now: datetime) -> OfficialQuota | None:
    """Ask Kaggle and keep what it says; a failure is kept beside the last good figure. None without a token."""
    if not has_kaggle_token(account):
        # Looked at again like the others, should a token be stored later; no figure, no error.
        OfficialQuota.objects.update_or_create(account=account, defaults={"tried_at": now, "error": ""})
        return None
    try:
        said = kaggle_of(account).quota()
    except (KaggleRefused, KaggleUnknown, Busy) as error:
        log.warning("account=%s official quota not read: %s", account.pk, error.message)
        found = {"tried_at": now, "error": storable(error.message)[:300]}
    else:
        found = {
            "used_s": said.used_s,
            "reserved_s": said.reserved_s,
            "total_s": said.total_s,
            "refresh_at": said.refresh_at,
            "read_at": now,
            "tried_at": now,
            "error": "",
        }
        log.info(
            "quota kaggle account=%s official used=%s reserved=%s total=%s refresh=%s",
            account.pk, _hours(said.used_s), _hours(said.reserved_s), _hours(said.total_s), said.refresh_at,
        )  # fmt: skip
        figure = Official(
            used_s=said.used_s, reserved_s=said.reserved_s, total_s=said.total_s, refresh_at=said.refresh_at
        )
        official_take(account=account, said=figure, at=now)
    row, _ = OfficialQuota.objects.update_or_create(account=account, defaults=found)
    return row


def _hours(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds / 3600:.2f}h"
