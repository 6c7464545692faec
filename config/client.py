"""Who is asking."""

import ipaddress

from django.http import HttpRequest

UNKNOWN = "0.0.0.0"


def client_address(request: HttpRequest) -> str:
    """The client's address as the gateway saw it. Django listens on a unix socket, so REMOTE_ADDR is empty;
    the gateway says one address, or something else where it knows none."""
    for found in (
        request.headers.get("X-Forwarded-For", "").rpartition(",")[2],
        request.META.get("REMOTE_ADDR", ""),
    ):
        try:
            return str(ipaddress.ip_address(found.strip()))
        except ValueError:
            continue
    return UNKNOWN
