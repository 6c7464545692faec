"""Where this program may be sent by an address that somebody else wrote. Pure: it looks at names and numbers only.

An address is allowed by its scheme, host and port first (`Place`), and then by each number that its host has
(`Reach.refusal`): a name that is allowed may still point into the machine's own network.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PORTS = {"http": 80, "https": 443}
NAME = re.compile(
    r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?", re.IGNORECASE
)
RULE = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+(?:/\d{1,3})?\]|[^:/\[\]\s]+(?:/\d{1,3})?)(?::(?P<port>\d{1,5}|\*))?/?",
    re.IGNORECASE,
)

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

NOT_PUBLIC = tuple(
    ipaddress.IPv6Network(text) for text in ("::/96", "64:ff9b:1::/48", "3fff::/20", "5f00::/16")
)
"""IPv4-compatible, locally translated, for documentation, segment routing: some Python versions call them global."""


class NotAllowed(ValueError):
    """An address that may not be asked; the text says which part of it, and why."""


@dataclass(frozen=True)
class Target:
    """An address taken apart. host: lower case, without brackets. path: with its query, at least "/"."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def number(self) -> Address | None:
        """The host, where it is written as a number."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True)
class Place:
    """A scheme, hosts and ports. Either `name` (exact, `*.below.this`, or `*`) or `network` is set. port None: any."""

    scheme: str
    name: str
    network: Network | None
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Place:
        """`https://*.example.org`, `http://10.1.0.0/16:8081`, `http://[fd00::/8]:*`. ValueError says what is wrong."""
        found = RULE.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} is not of the form scheme://host[:port]")
        scheme, host, port = found["scheme"].lower(), found["host"].lower(), found["port"]
        if port not in (None, "*") and not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} names port {port}, which is none")
        number = None if port == "*" else int(port or PORTS[scheme])
        try:
            return cls(scheme, "", ipaddress.ip_network(host.strip("[]")), number)
        except ValueError as error:
            if host.startswith("[") or "/" in host or re.fullmatch(r"[0-9.]+", host):
                raise ValueError(f"{text!r} names no network: {error}") from error
        if host != "*" and not NAME.fullmatch(host):
            raise ValueError(f"{text!r} names no host")
        return cls(scheme, host.rstrip("."), None, number)

    def holds(self, target: Target) -> bool:
        if target.scheme != self.scheme or (self.port is not None and target.port != self.port):
            return False
        number = target.number
        if self.network is not None:
            return number is not None and number.version == self.network.version and number in self.network
        if self.name == "*":
            return True
        if self.name.startswith("*."):
            return target.host.endswith(self.name[1:]) and number is None
        return target.host == self.name


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What may be asked. places: None is every public host. private: networks that may be reached though not public."""

    places: tuple[Place, ...] | None = None
    private: tuple[Network, ...] = ()

    def target(self, url: str) -> Target:
        """The address taken apart, if its scheme, host and port are allowed. Raises NotAllowed."""
        target = target_of(url)
        if self.places is not None and not any(place.holds(target) for place in self.places):
            raise NotAllowed(
                f"{target.scheme}://{target.authority} is not among the places that may be asked"
            )
        return target

    def refusal(self, target: Target, address: str) -> str | None:
        """Why this number of the target's host may not be connected to; None where it may."""
        number = ipaddress.ip_address(address.partition("%")[0])
        if is_public(number) or any(
            number.version == network.version and number in network for network in self.private
        ):
            return None
        named = self.places is not None and any(
            place.network is not None and place.holds(target) for place in self.places
        )
        if named and number == target.number:
            return None
        return f"{target.host} is {number}, which is not a public address"


def target_of(url: str) -> Target:
    """An http or https address taken apart. Raises NotAllowed where it is none, or carries a name or password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise NotAllowed(f"not an address: {error}") from error
    scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".")
    if scheme not in PORTS or not host:
        raise NotAllowed("not an http or https address with a host")
    if "@" in parts.netloc:
        raise NotAllowed("an address with a user name or password is not asked")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not (host.isascii() and path.isascii()) or re.search(r"[\x00-\x20\x7f]", url):
        raise NotAllowed("an address holds plain characters only, without blanks")
    return Target(scheme, host, port if port is not None else PORTS[scheme], path)


def is_public(number: Address) -> bool:
    """Whether it is an address of the Internet; one that only wraps another is as public as that one."""
    if isinstance(number, ipaddress.IPv6Address):
        inner = number.ipv4_mapped or number.sixtofour or (number.teredo or (None, None))[1]
        if inner is None and number in NAT64:
            inner = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
        if inner is not None and not is_public(inner):
            return False
        if number.is_site_local or any(number in network for network in NOT_PUBLIC):
            return False
        if number.ipv4_mapped is not None:
            return True
    return number.is_global and not number.is_multicast


def is_near(url: str) -> bool:
    """Whether this address leads nowhere from outside: this machine, a private network, a name without a domain.

    Only what the text itself says is looked at; no name is resolved. Raises NotAllowed where it is no address.
    """
    target = target_of(url)
    if target.number is not None:
        return not is_public(target.number)
    return "." not in target.host or target.host.endswith((".localhost", ".local", ".internal"))
