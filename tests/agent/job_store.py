"""The server's side of jobs' files for the test double: what a job is given, signatures by a real folder store, what it left."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from agent import wire
from snapshots.engine.store.folder import FolderStore
from snapshots.engine.store.folder_http import respond
from tests.agent.control_plane import ControlPlane


class JobStore:
    """Hooked into a ControlPlane. delay_s: what each transfer waits; broken: every transfer is answered 503."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane = plane
        self.store = FolderStore(folder, base_url="/objects", signing_key=b"s" * 32)
        self.given: dict[str, list[dict[str, Any]]] = {}
        self.kept: dict[str, dict[str, dict[str, Any]]] = {}
        self.delay_s = 0.0
        self.broken = False
        self.refuses: tuple[int, dict[str, Any]] | None = None
        self.transfers = 0
        plane.extra = self._answer
        plane.raw = self._transfer

    def keep(self, dispatch_id: str, *globs: str, **bounds: int) -> dict[str, Any]:
        """What `artifacts` of that dispatch's work is."""
        usual = {"files_at_most": 100, "file_bytes": 1 << 30, "total_bytes": 1 << 30}
        return {"globs": list(globs), "key_prefix": f"j/o_1/{dispatch_id}/", **usual, **bounds}

    def put(self, name: str, data: bytes) -> dict[str, Any]:
        """Bytes in the store, as a piece."""
        digest = hashlib.sha256(data).hexdigest()
        key = f"j/o_1/{name}/{digest}"
        self.store.write(key, data)
        return {"key": key, "length": len(data), "sha256": digest}

    def content(self, dispatch_id: str, path: str) -> bytes:
        """What was kept, put together and held to its hash."""
        file = self.kept[dispatch_id][path]
        data = b"".join(self.store.read(piece["key"]) for piece in file["pieces"])
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["length"], file["sha256"])
        return data

    def _answer(self, path: str, _bearer: str, body: dict[str, Any]) -> tuple[int, Any] | None:
        match = re.fullmatch(r"/api/agent/dispatch/([\w-]+)/(files|objects|artifacts)", path)
        if match is None:
            return None
        if self.refuses is not None:
            return self.refuses
        dispatch_id, verb = match[1], match[2]
        if verb == "files":
            return 200, {"files": self.given[dispatch_id]}
        if verb == "artifacts":
            for file in body["artifacts"]:
                self.kept.setdefault(dispatch_id, {})[file["path"]] = file
            return 200, {"count": len(self.kept[dispatch_id])}
        put = [
            self.store.put_request(one["key"], length=one["length"], sha256=one["sha256"], ttl_s=60)
            for one in body.get("put", ())
        ]
        get = [self.store.get_request(key, ttl_s=60) for key in body.get("get", ())]
        return 200, wire.to_json(
            wire.ObjectsAnswer(put=tuple(map(_signed, put)), get=tuple(map(_signed, get)))
        )

    def _transfer(self, handler: BaseHTTPRequestHandler) -> bool:
        parts = urlsplit(handler.path)
        if not parts.path.startswith("/objects/"):
            return False
        with self.plane.changed:
            self.transfers += 1
            self.plane.changed.notify_all()
        time.sleep(self.delay_s)
        if self.broken:
            # What was sent stays unread, so that the connection is of no more use. "At once": tests have no patience.
            handler.send_response(503)
            for name, value in (("Content-Length", "0"), ("Connection", "close"), ("Retry-After", "0")):
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.flush()
            return True
        reply = respond(
            self.store,
            method=handler.command,
            key=unquote(parts.path.removeprefix("/objects/")),
            query=dict(parse_qsl(parts.query)),
            headers=dict(handler.headers.items()),
            body=handler.rfile,
            now=time.time(),
        )
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        for piece in reply.body:
            handler.wfile.write(piece)
        handler.wfile.flush()
        return True


def _signed(request: Any) -> wire.Presigned:
    return wire.Presigned(method=request.method, url=request.url, headers=dict(request.headers))


def inline(path: str, data: bytes, mode: int = 0o644) -> dict[str, Any]:
    file = wire.GivenFile(path=path, mode=mode, length=len(data), data=base64.b64encode(data).decode())
    return asdict(file)
