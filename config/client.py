"""Who is asking."""

from django.http import HttpRequest


def client_address(request: HttpRequest) -> str:
    """The client's address as the gateway saw it. Django listens on a unix socket, so REMOTE_ADDR is empty;
    the gateway appends the address that it believes, and only the last entry is its own."""
    forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    return forwarded or request.META.get("REMOTE_ADDR") or "127.0.0.1"
