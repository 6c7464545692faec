"""A folder store behind a real HTTP server, as the web process would serve it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from snapshots.engine.store.folder import FolderStore
from snapshots.engine.store.folder_http import Reply, respond

SIGNING_KEY = b"tests sign with this"
Hook = Callable[[str, str], Reply | None]


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news; anything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serve_folder(root: Path, *, before: Hook | None = None) -> Iterator[FolderStore]:
    """The store that a server on this machine serves. before(method, key) may answer in its place."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16
        disable_nagle_algorithm = True

        def answer(self) -> None:
            parts = urlsplit(self.path)
            key = unquote(parts.path).lstrip("/")
            reply = before(self.command, key) if before is not None else None
            if reply is None:
                reply = respond(
                    store,
                    method=self.command,
                    key=key,
                    query=dict(parse_qsl(parts.query)),
                    headers=self.headers,
                    body=self.rfile,
                    now=time.time(),
                )
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.status >= 400:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            for piece in reply.body:
                self.wfile.write(piece)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def log_message(self, *args: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    store = FolderStore(root, base_url=f"http://127.0.0.1:{server.server_port}", signing_key=SIGNING_KEY)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
