"""GET requests to our own processes: over a unix socket or on this machine, never through a proxy."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, *, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def get(
    path: str,
    *,
    sock: Path | None = None,
    host: str = "",
    port: int = 0,
    token: str = "",
    timeout_s: float = 5,
) -> tuple[int, bytes]:
    """Status and body; (0, b"") where nobody answers. token: of a person, for what not everybody may read."""
    connection = (
        _UnixConnection(sock, timeout_s=timeout_s)
        if sock
        else http.client.HTTPConnection(host, port, timeout=timeout_s)
    )
    try:
        # A production address redirects what came without TLS; the proxy before the gateway would say https.
        headers = {"Host": "localhost", "X-Forwarded-Proto": "https"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
