"""Agents' secrets: made, rotated, and handed out together with an access token.

A secret is traded for the next one at each refresh. The next is derived from the present one with a key of ours, so
that a refresh asked again, because its answer was lost or two of them crossed, is answered with the same secret. The
old one is good until the new one was used; when it turns up after that, somebody has copied it.
"""

from __future__ import annotations

import hmac
from datetime import datetime

from django.conf import settings
from django.utils.crypto import salted_hmac

from agent import wire
from core.agents import access_token
from core.tokens import digest
from pool.models import Worker
from pool.services.direct_redis import transport


def secret_first(worker_id: str, epoch: int, *, token: str, request_id: str) -> str:
    """The secret that an enrolment hands out; the same enrolment asked again gets the same one."""
    return _derive(epoch, f"enrolment:{worker_id}:{epoch}:{request_id}:{token}")


def secret_after(worker_id: str, epoch: int, secret: str) -> str:
    """The secret that replaces `secret`."""
    return _derive(epoch, f"rotation:{worker_id}:{epoch}:{secret}")


def epoch_of(secret: str) -> int | None:
    """The epoch that a secret was made for: an older box is told to stand down, not that it made a mistake."""
    head = secret.partition(".")[0]
    return int(head) if head.isascii() and head.isdigit() and len(head) < 10 else None


def matches(secret: str, sha256: str) -> bool:
    return bool(sha256) and hmac.compare_digest(digest(secret), sha256)


def credentials(worker: Worker, *, secret: str, now: datetime) -> wire.Credentials:
    """What the agent gets: identity, the secret to keep, an access token, and how it should run."""
    return wire.Credentials(
        worker_id=worker.pk,
        epoch=worker.epoch,
        secret=secret,
        access_token=access_token(worker_id=worker.pk, epoch=worker.epoch, now=now),
        access_expires_in_s=wire.ACCESS_TOKEN_LIFE_S,
        instance_id=worker.instance_ref or None,
        settings=wire.AgentSettings(
            check_interval_s=worker.check_interval_s,
            max_session_hours=worker.account.session_shutdown_h,
            transport=transport(worker.pk, worker.epoch),
            dead_man_minutes=(settings.DEAD_MAN_MINUTES or None) if worker.instance_ref else None,
        ),
    )


def _derive(epoch: int, value: str) -> str:
    return f"{epoch}.{salted_hmac('pool.agent-secret', value, algorithm='sha256').hexdigest()}"
