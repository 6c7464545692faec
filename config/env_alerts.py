"""Who is told of alerts, and which addresses from outside may be asked: their part of the environment."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import parse_qsl, unquote

from config.reader import Reader
from core.places import Network, NotAllowed, Place, Reach, target_of

SECRET_CHARS = 32
ADDRESS = re.compile(r"[^@\s,<>\"']+@[^@\s,<>\"']+")
SMTP_PORTS = {"smtp": 587, "smtps": 465}
SEVERITIES = ("info", "warning", "critical")


@dataclass(frozen=True, kw_only=True)
class Mail:
    """How mail is sent. tls: starttls, implicit or none."""

    host: str
    port: int
    user: str
    password: str
    tls: str
    sender: str


@dataclass(frozen=True, kw_only=True)
class Alerts:
    """emails, webhooks, apprise: who of the site is told. queue_minutes: how long a job may wait in vain."""

    mail: Mail | None
    emails: tuple[str, ...]
    webhooks: tuple[str, ...]
    webhook_secret: str
    apprise: tuple[str, ...]
    least_severity: str
    queue_minutes: float


def private_networks_read(reader: Reader) -> tuple[Network, ...]:
    """Networks that may be reached though they are not public."""
    networks: list[Network] = []
    for item in reader.items("DORMOUSE_PRIVATE_NETWORKS"):
        try:
            networks.append(ipaddress.ip_network(item))
        except ValueError as error:
            reader.problem(
                "E030",
                "DORMOUSE_PRIVATE_NETWORKS",
                f"is not a list of networks ({error}): write for example 10.1.0.0/16,192.168.7.5",
            )
    return tuple(networks)


def health_places_read(reader: Reader) -> tuple[Place, ...]:
    """Where workers may be asked for their health."""
    places: list[Place] = []
    for item in reader.items("DORMOUSE_HEALTH_URLS"):
        try:
            places.append(Place.parse(item))
        except ValueError as error:
            reader.problem("E031", "DORMOUSE_HEALTH_URLS", f"is not a list of places ({error}): write for example "
                           "https://*.tunnels.example.org,http://10.1.0.0/16:8081")  # fmt: skip
    return tuple(places)


def alerts_read(reader: Reader, *, private: Sequence[Network], public_host: str) -> Alerts:
    webhooks = tuple(
        url for url in reader.items("DORMOUSE_ALERT_WEBHOOKS") if _is_webhook(reader, url, private=private)
    )
    apprise = tuple(reader.items("DORMOUSE_ALERT_APPRISE"))
    if apprise and find_spec("apprise") is None:
        reader.problem("E034", "DORMOUSE_ALERT_APPRISE", "is set, but the apprise library is not installed: run "
                       ".venv/bin/pip install apprise, or unset it")  # fmt: skip
    mail = _mail(reader, public_host)
    emails = tuple(reader.items("DORMOUSE_ALERT_EMAILS"))
    for address in emails:
        if not ADDRESS.fullmatch(address):
            reader.problem(
                "E032", "DORMOUSE_ALERT_EMAILS", f"holds {address!r}, which is no e-mail address: correct it"
            )
    if emails and mail is None:
        reader.problem("E032", "DORMOUSE_ALERT_EMAILS", "is set, but no mail can be sent: set DORMOUSE_SMTP_URL to "
                       "smtp://user:password@host:587")  # fmt: skip
    return Alerts(
        mail=mail,
        emails=emails if mail is not None else (),
        webhooks=webhooks,
        webhook_secret=_webhook_secret(reader, wanted=bool(webhooks)),
        apprise=apprise,
        least_severity=reader.choice("DORMOUSE_ALERT_SEVERITY", "info", SEVERITIES, id="E035"),
        queue_minutes=reader.number(
            "DORMOUSE_ALERT_QUEUE_MINUTES", 30, low=0.1, high=10_080, unit="a number of minutes", id="E035"
        ),
    )


def _is_webhook(reader: Reader, url: str, *, private: Sequence[Network]) -> bool:
    """The address itself is never repeated: its path may be a secret."""
    name = "DORMOUSE_ALERT_WEBHOOKS"
    try:
        target = target_of(url)
    except NotAllowed as error:
        reader.problem(
            "E033", name, f"holds something that cannot be asked ({error}): write https://host/path"
        )
        return False
    refusal = (
        Reach(private=tuple(private)).refusal(target, target.host) if target.number is not None else None
    )
    if refusal is not None:
        reader.problem(
            "E033", name, f"names {refusal}: add its network to DORMOUSE_PRIVATE_NETWORKS if that is meant"
        )
    return refusal is None


def _webhook_secret(reader: Reader, *, wanted: bool) -> str:
    secret = reader.text("DORMOUSE_ALERT_WEBHOOK_SECRET")
    if wanted and len(secret) < SECRET_CHARS:
        found = "is too short" if secret else "is not set, but DORMOUSE_ALERT_WEBHOOKS is"
        reader.problem("E033", "DORMOUSE_ALERT_WEBHOOK_SECRET", f"{found}: give it {SECRET_CHARS} random characters "
                       "or more, and the receiver the same")  # fmt: skip
    return secret


def _mail(reader: Reader, public_host: str) -> Mail | None:
    name = "DORMOUSE_SMTP_URL"
    if not reader.text(name):
        return None
    parts = reader.url(name, "", schemes=tuple(SMTP_PORTS), id="E032")
    if parts.scheme not in SMTP_PORTS:
        return None
    options = dict(parse_qsl(parts.query))
    tls = options.get("tls", "starttls" if parts.scheme == "smtp" else "implicit")
    allowed = ("starttls", "none") if parts.scheme == "smtp" else ("implicit",)
    if not parts.hostname or parts.path.strip("/") or set(options) - {"tls"} or tls not in allowed:
        reader.problem("E032", name, "is not of a form that is known here: write smtp://user:password@host:587, "
                       "smtp://host:25?tls=none or smtps://user:password@host:465")  # fmt: skip
        return None
    sender = reader.text("DORMOUSE_MAIL_FROM", f"dormouse@{public_host}")
    if not ADDRESS.fullmatch(sender):
        reader.problem(
            "E032", "DORMOUSE_MAIL_FROM", f"is {sender!r}, which is no e-mail address: write name@host"
        )
        return None
    return Mail(
        host=parts.hostname,
        port=parts.port or SMTP_PORTS[parts.scheme],
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=tls,
        sender=sender,
    )
