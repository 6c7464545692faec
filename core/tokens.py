"""API tokens of people: made once, shown once, kept as a hash."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.contrib.auth.models import AbstractBaseUser
from django.utils import timezone

from core.errors import Invalid
from core.models import ApiToken

PREFIX = "dm_"
"""So that secret scanners, and people, recognise one."""

DEFAULT_LIFE = timedelta(days=90)


def digest(secret: str) -> str:
    """SHA-256 in hex. The secrets hold 256 random bits, so that no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def secret_new() -> str:
    """256 random bits as text."""
    return secrets.token_urlsafe(32)


def token_issue(
    *,
    user: AbstractBaseUser,
    name: str,
    scopes: Sequence[str] = ("read", "operate"),
    expires_at: datetime | None = None,
) -> tuple[ApiToken, str]:
    """A new token and its plain text, which nobody will ever see again. Invalid names a scope that is not one."""
    wrong = [scope for scope in scopes if scope not in ApiToken.SCOPES]
    if wrong or not scopes:
        raise Invalid(
            f"no such scope: {', '.join(wrong) or 'none given'}",
            hint=f"choose from {', '.join(ApiToken.SCOPES)}",
        )
    plain = PREFIX + secret_new()
    row = ApiToken.objects.create(
        user=user,
        name=name,
        prefix=plain[:11],
        sha256=digest(plain),
        scopes=list(scopes),
        expires_at=expires_at or timezone.now() + DEFAULT_LIFE,
    )
    return row, plain


def token_find(plain: str, *, now: datetime) -> ApiToken | None:
    """The valid token with this plain text; None where there is none, it has expired, or it was revoked."""
    row = ApiToken.objects.select_related("user").filter(sha256=digest(plain)).first()
    if row is None or not row.valid(now=now) or not row.user.is_active:
        return None
    if row.last_used_at is None or now - row.last_used_at > timedelta(minutes=1):
        ApiToken.objects.filter(pk=row.pk).update(last_used_at=now)
    return row


def token_revoke(row: ApiToken, *, now: datetime | None = None) -> None:
    """From now on the token opens nothing. Revoking it again changes nothing."""
    ApiToken.objects.filter(pk=row.pk, revoked_at__isnull=True).update(revoked_at=now or timezone.now())
