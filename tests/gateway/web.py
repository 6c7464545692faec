"""The web process behind the gateway, for tests: a real HTTP/1.1 server on a unix socket, one thread a request.

Paths: /echo tells what arrived; /bytes/N sends N bytes; /chunked/N the same without a length; others below.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

PIECE = bytes(range(256)) * 256


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web  # type: ignore[assignment]

    def do_ANY(self) -> None:
        path = self.path.partition("?")[0]
        name, _, rest = path.lstrip("/").partition("/")
        self.server.seen.append(f"{self.command} {self.path}")
        with contextlib.suppress(ConnectionError):
            getattr(self, f"on_{name}", self.on_echo)(rest)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = do_OPTIONS = do_PURGE = do_ANY

    # -- answers -------------------------------------------------------------------------------

    def on_echo(self, rest: str) -> None:
        size, digest = self.read_body()
        told: dict[str, Any] = {
            "line": self.requestline,
            "headers": [
                [name, value.encode("latin-1").decode("utf-8", "replace")]
                for name, value in self.headers.items()
            ],
            "body_bytes": size,
            "body_sha256": digest,
        }
        self.reply(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

    def on_bytes(self, rest: str) -> None:
        total = int(rest)
        self.send_response(200)
        self.send_header("Content-Length", str(total))
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()
        if self.command != "HEAD":
            self.send_bytes(total, lambda piece: self.wfile.write(piece))

    def on_chunked(self, rest: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.send_bytes(int(rest), lambda piece: self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece)))
        self.wfile.write(b"0\r\n\r\n")

    def on_until_close(self, rest: str) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.send_bytes(int(rest), lambda piece: self.wfile.write(piece))
        self.close_connection = True

    def on_short(self, rest: str) -> None:
        """Promises more than it sends."""
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(PIECE)
        self.close_connection = True

    def on_broken_chunks(self, rest: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nhello\r\n")
        self.close_connection = True

    def on_range(self, rest: str) -> None:
        asked = self.headers.get("Range", "")
        first, last = (int(part) for part in asked.removeprefix("bytes=").split("-"))
        body = PIECE[first : last + 1]
        self.reply(
            206, body, {"Content-Range": f"bytes {first}-{last}/{len(PIECE)}", "Accept-Ranges": "bytes"}
        )

    def on_cookies(self, rest: str) -> None:
        self.send_response(200)
        self.send_header("Set-Cookie", "csrftoken=a; Path=/")
        self.send_header("Set-Cookie", "sessionid=b; HttpOnly; Path=/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def on_status(self, rest: str) -> None:
        status = int(rest)
        self.send_response(status)
        if status not in (204, 304):
            self.send_header("Content-Length", "0")
        if status == 302:
            self.send_header("Location", "/echo")
        self.send_header("ETag", '"abc"')
        self.end_headers()

    def on_gzip(self, rest: str) -> None:
        self.reply(
            200, b"\x1f\x8b not really gzip", {"Content-Encoding": "gzip", "Content-Type": "text/plain"}
        )

    def on_hop(self, rest: str) -> None:
        self.reply(
            200, b"ok", {"Connection": "X-Secret", "X-Secret": "1", "Keep-Alive": "timeout=5", "X-Open": "2"}
        )

    def on_latin(self, rest: str) -> None:
        self.reply(200, b"ok", {"X-Name": "caf\xe9"})

    def on_refuse_early(self, rest: str) -> None:
        """Answers without reading the body, as a web server does whose limit is exceeded."""
        self.reply(413, b"too large", {"Connection": "close"})
        self.close_connection = True
        # Reading on a little lets the answer out before the socket is closed with unread bytes in it.
        self.connection.settimeout(1)
        with contextlib.suppress(OSError):
            while self.connection.recv(65536):
                pass

    def on_vanish(self, rest: str) -> None:
        self.read_body()
        self.close_connection = True

    def on_hold(self, rest: str) -> None:
        """Reads the body, then answers when the test says so, or notices that the gateway hung up."""
        self.read_body()
        self.server.held.set()
        self.connection.settimeout(0.02)
        while not self.server.release.is_set():
            try:
                if self.connection.recv(1) == b"":
                    self.server.hung_up.set()
                    self.close_connection = True
                    return
            except TimeoutError:
                continue
        self.connection.settimeout(None)
        self.reply(200, b"held", {})

    def on_endless(self, rest: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(PIECE), PIECE))
        except ConnectionError:
            self.server.hung_up.set()
            self.close_connection = True

    # -- parts ---------------------------------------------------------------------------------

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_bytes(self, total: int, write: Any) -> None:
        while total > 0:
            piece = PIECE[:total]
            write(piece)
            total -= len(piece)

    def read_body(self) -> tuple[int, str]:
        digest = hashlib.sha256()
        size = 0
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while length := int(self.rfile.readline(), 16):
                digest.update(self.rfile.read(length))
                size += length
                self.rfile.readline()
            self.rfile.readline()
        left = int(self.headers.get("Content-Length", 0))
        while left > 0:
            piece = self.rfile.read(min(left, 65536))
            if not piece:
                self.server.body_cut.set()
                raise ConnectionError("the body ended early")
            digest.update(piece)
            size += len(piece)
            left -= len(piece)
        return size, digest.hexdigest()

    def address_string(self) -> str:
        return "gateway"

    def log_message(self, format: str, *args: Any) -> None:
        return


class Web(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """seen: request lines' methods and targets. The events are set by the paths that speak of them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[str] = []
        self.held, self.release = threading.Event(), threading.Event()
        self.hung_up, self.body_cut = threading.Event(), threading.Event()
        path.unlink(missing_ok=True)
        super().__init__(str(path), Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def forget(self) -> None:
        self.seen.clear()
        for event in (self.held, self.release, self.hung_up, self.body_cut):
            event.clear()

    def stop(self) -> None:
        self.release.set()
        self.shutdown()
        self.server_close()
        self._thread.join()
        self.path.unlink(missing_ok=True)
