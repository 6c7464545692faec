"""Direct Redis for agents on a LAN or VPN (DORMOUSE_AGENT_TRANSPORT=redis): a user for each worker, one key, two commands.

The gateway's HTTPS queue is the rule (docs/adr/0001-celery-over-https.md). In this mode Redis' own default user must be
off and the network private: whoever reaches Redis may try passwords.
"""

from __future__ import annotations

import logging
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings
from django.utils.crypto import salted_hmac

from agent import wire
from core import broker

log = logging.getLogger(__name__)


def transport(worker_id: str, epoch: int) -> dict[str, str]:
    """What AgentSettings.transport says to this worker; its Redis user is (re)made where it needs one."""
    if settings.AGENT_TRANSPORT != "redis":
        return {"kind": "https"}
    url = _address(worker_id, epoch)
    if url is None:
        log.warning("REDIS_URL is no address for another machine: worker=%s uses https", worker_id)
        return {"kind": "https"}
    grant(worker_id, epoch)
    return {"kind": "redis", "url": url}


def grant(worker_id: str, epoch: int) -> None:
    """The user of this worker in this epoch: it may take from its own list, and ping."""
    broker.tell(
        "ACL",
        "SETUSER",
        _user(worker_id),
        "reset",
        "on",
        f">{_password(worker_id, epoch)}",
        f"~{wire.queue_key(worker_id)}",
        "resetchannels",
        "-@all",
        "+brpop",
        "+ping",
    )


def withdraw(worker_id: str) -> None:
    """Its user is gone, and with it any connection that it has open."""
    if settings.AGENT_TRANSPORT == "redis":
        broker.tell("ACL", "DELUSER", _user(worker_id))


def _user(worker_id: str) -> str:
    return f"gpu_{worker_id}"


def _password(worker_id: str, epoch: int) -> str:
    """Derived, so that a Redis that lost its users can be given them back."""
    return salted_hmac("pool.direct-redis", f"{worker_id}:{epoch}", algorithm="sha256").hexdigest()


def _address(worker_id: str, epoch: int) -> str | None:
    parts = urlsplit(settings.REDIS_URL)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    place = f"{_user(worker_id)}:{_password(worker_id, epoch)}@{host}{port}"
    return urlunsplit((parts.scheme, place, parts.path, "", ""))
