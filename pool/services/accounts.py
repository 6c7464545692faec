"""Accounts: made with the defaults of their kind, changed as data."""

from __future__ import annotations

import json
import math
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError

from core.errors import DomainError, Invalid
from pool.models import Account
from pool.quota import DEFAULTS
from pool.services.standings import standings_expire

SECRET_SHOWN_FROM = 12
"""Characters that a secret must have for its last two to be shown."""


def account_create(*, owner: AbstractBaseUser, kind: str, label: str, **fields: Any) -> Account:
    """A new account. Limits that are not given are the defaults of its kind. Raises Invalid, naming the field."""
    if kind not in DEFAULTS:
        raise Invalid(f"kind {kind!r} is not one of {', '.join(DEFAULTS)}")
    account = Account(owner=owner, kind=kind, label=label, **{**limit_columns(kind), **fields})
    account_check(account)
    try:
        with transaction.atomic():
            account.save(force_insert=True)
    except IntegrityError as error:
        raise Invalid(
            f"there is a {kind} account {label!r} already", hint="give it another label", code="label_taken"
        ) from error
    return account


def account_update(*, account: Account, **fields: Any) -> Account:
    """Change some of the account's own data. Its workers' check interval changes for those that enrol from now on."""
    for name, value in fields.items():
        setattr(account, name, value)
    account_check(account)
    try:
        with transaction.atomic():
            account.save(update_fields=list(fields))
            standings_expire([account.pk])
    except IntegrityError as error:
        raise Invalid(
            f"there is a {account.kind} account {account.label!r} already",
            hint="give it another label",
            code="label_taken",
        ) from error
    return account


def limit_columns(kind: str) -> dict[str, Any]:
    """The account columns that hold a kind's default limits."""
    limits = DEFAULTS[kind]
    return {
        "session_limit_h": limits.session_limit_h,
        "session_shutdown_h": limits.session_shutdown_h,
        "weekly_limit_h": limits.weekly_limit_h,
        "safe_percent": limits.safe_percent,
        "check_interval_s": limits.check_interval_s,
        "reset_weekday": limits.week.weekday,
        "reset_hour": limits.week.hour,
        "reset_zone": limits.week.zone,
    }


def account_delete(account: Account) -> None:
    """Forget an account that nothing stands on. Raises DomainError where workers or instances still name it."""
    try:
        account.delete()
    except ProtectedError as error:
        named = sorted({str(row._meta.verbose_name) for row in error.protected_objects})
        raise DomainError(
            f"account {account} is still named by: {', '.join(named)}",
            hint="switch it off instead: PATCH with enabled=false",
            code="account_in_use",
        ) from error


def credentials_hint(account: Account) -> str:
    """All that is ever shown of an account's credentials: whether they are set, and how the secret in them ends."""
    if not account.credentials:
        return "not set"
    texts = [value for value in json.loads(account.credentials).values() if isinstance(value, str)]
    # Two characters of a short secret would be a good part of it.
    return f"set, ends in …{texts[-1][-2:]}" if texts and len(texts[-1]) >= SECRET_SHOWN_FROM else "set"


def account_check(account: Account) -> None:
    """Raises Invalid, naming the field, where the account contradicts itself."""
    try:
        ZoneInfo(account.reset_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Invalid(
            f"reset_zone {account.reset_zone!r} is not a time zone",
            hint="use an IANA name: America/Sao_Paulo",
        ) from error
    if account.credentials:
        try:
            readable = isinstance(json.loads(account.credentials), dict)
        except ValueError:
            readable = False
        if not readable:
            raise Invalid("credentials must be a JSON object", hint='for example {"api_key": "…"}')
    for name in (
        "session_limit_h",
        "session_shutdown_h",
        "weekly_limit_h",
        "check_interval_s",
        "safe_percent",
    ):
        value = getattr(account, name)
        if name == "weekly_limit_h" and value == 0:
            continue  # what a provider says of an account that it allows no GPU
        if value is not None and not (math.isfinite(value) and value > 0):
            raise Invalid(f"{name} must be a number above 0", hint="leave it out where no limit applies")
    limit, shutdown = account.session_limit_h, account.session_shutdown_h
    if limit is not None and shutdown is not None and shutdown > limit:
        raise Invalid(
            f"session_shutdown_h {shutdown:g} is later than session_limit_h {limit:g}",
            hint="the agent must end the session before the provider does",
        )
    try:
        account.full_clean(exclude=["owner"], validate_constraints=False, validate_unique=False)
    except ValidationError as error:
        text = "; ".join(f"{name}: {' '.join(lines)}" for name, lines in error.message_dict.items())
        raise Invalid(text, hint="correct the fields that are named") from error
