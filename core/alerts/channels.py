"""The ways by which people are told: mail, a signed webhook, and whatever the apprise library knows."""

from __future__ import annotations

import hashlib
import hmac
import json
import smtplib
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import urlsplit

from django.conf import settings
from django.core.mail import EmailMessage

from core.alerts import messages
from core.http import HttpError
from core.http_guarded import GuardedHttp
from core.models import Alert
from core.places import Reach

WEBHOOK_S = 10.0


class NotSent(Exception):
    """A message that was not taken; the text says by whom and why. for_good: trying again cannot help."""

    def __init__(self, text: str, *, for_good: bool = False) -> None:
        super().__init__(text)
        self.for_good = for_good


def label(url: str) -> str:
    """Names a webhook in rows, logs and the console: its scheme and host, and which of several. Its path may be a secret."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host[:180]}#{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def send(channel: str, target: str, alerts: Sequence[Alert], *, now: datetime) -> None:
    """One message about these alerts. Raises NotSent."""
    if channel == "email":
        _mail(target, alerts)
    elif channel == "webhook":
        _webhook(_url(target, settings.ALERT_WEBHOOKS, "DORMOUSE_ALERT_WEBHOOKS"), alerts, now=now)
    elif channel == "apprise":
        _apprise(_url(target, settings.ALERT_APPRISE, "DORMOUSE_ALERT_APPRISE"), alerts)
    else:
        raise NotSent(f"there is no channel {channel!r} in this version", for_good=True)


def _url(target: str, urls: Sequence[str], setting: str) -> str:
    for url in urls:
        if label(url) == target:
            return url
    raise NotSent(f"{setting} no longer names {target}", for_good=True)


# -- mail -----------------------------------------------------------------------------------------------------------


def _mail(address: str, alerts: Sequence[Alert]) -> None:
    if not settings.ALERT_MAIL:
        raise NotSent("DORMOUSE_SMTP_URL is no longer set", for_good=True)
    links = address in settings.ALERT_EMAILS
    # The same message sent again, because its worker died before it could say so, has the same id.
    same = hashlib.sha256("\n".join([address, *(alert.pk for alert in alerts)]).encode()).hexdigest()[:32]
    host = urlsplit(settings.PUBLIC_URL).hostname
    mail = EmailMessage(
        subject=messages.title(alerts),
        body=messages.body(alerts, links=links),
        to=[address],
        headers={"Message-ID": f"<{same}@{host}>", "Auto-Submitted": "auto-generated"},
    )
    try:
        mail.send()
    except ValueError as error:
        raise NotSent(f"no mail can be sent to {address!r}: {error}", for_good=True) from error
    except (smtplib.SMTPException, OSError) as error:
        raise NotSent(
            f"{settings.EMAIL_HOST} did not take the mail: {type(error).__name__}: {error}"
        ) from error


# -- webhook --------------------------------------------------------------------------------------------------------


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """What the receiver computes as well: HMAC-SHA256 over the timestamp, a dot and the body as it was sent."""
    return "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _webhook(url: str, alerts: Sequence[Alert], *, now: datetime) -> None:
    body = json.dumps(messages.as_json(alerts, now=now), ensure_ascii=False).encode()
    timestamp = str(int(now.timestamp()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "dormouse",
        "Dormouse-Timestamp": timestamp,
        "Dormouse-Signature": signature(settings.ALERT_WEBHOOK_SECRET, timestamp, body),
    }
    http = GuardedHttp(reach=Reach(private=settings.PRIVATE_NETWORKS), total_s=WEBHOOK_S)
    try:
        answer = http.call("POST", url, body=body, headers=headers)
    except HttpError as error:
        raise NotSent(str(error)) from error
    if not 200 <= answer.status < 300:
        raise NotSent(f"the webhook answered {answer.status}")


# -- apprise --------------------------------------------------------------------------------------------------------


def _apprise(url: str, alerts: Sequence[Alert]) -> None:
    try:
        import apprise
    except ImportError as error:
        raise NotSent("the apprise library is not installed: pip install apprise") from error
    service = apprise.Apprise()
    if not service.add(url):
        raise NotSent("apprise does not know this kind of address", for_good=True)
    if not service.notify(title=messages.title(alerts), body=messages.body(alerts, links=True)):
        raise NotSent("the service did not take the message")
