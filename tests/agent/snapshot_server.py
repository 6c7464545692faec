"""The server's side of snapshots for the test double: terms, signatures by a real folder store, and its HTTP side."""

from __future__ import annotations

import base64
import re
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from agent import wire
from snapshots.engine.store.base import SignedRequest
from snapshots.engine.store.folder import FolderStore
from snapshots.engine.store.folder_http import respond
from tests.agent.control_plane import STAND_DOWN, ControlPlane

OWNER, OWNER_KEY = "u_1", b"k" * 32


class SnapshotServer:
    """Hooked into a ControlPlane. relative: signed URLs are paths. delay_s: what each transfer waits."""

    def __init__(self, plane: ControlPlane, folder: Path, *, relative: bool = False) -> None:
        self.plane = plane
        base = "/objects" if relative else f"{plane.url}/objects"
        self.store = FolderStore(folder, base_url=base, signing_key=b"s" * 32)
        self.terms: dict[str, dict[str, Any]] = {}
        self.fences: dict[str, int] = {}
        self.commits: list[dict[str, Any]] = []
        self.committed: set[str] = set()
        self.rooted: set[str] = set()
        self.plans: list[dict[str, Any]] = []
        self.delay_s = 0.0
        self.transfers = 0
        plane.extra = self._answer
        plane.raw = self._transfer

    def offer(
        self, snapshot_id: str, *, parent: str | None = None, content_id: str | None = None, fence: int = 1
    ) -> None:
        self.fences[snapshot_id] = fence
        self.terms[snapshot_id] = {
            "snapshot_id": snapshot_id,
            "owner_id": OWNER,
            "owner_key": base64.b64encode(OWNER_KEY).decode(),
            "root_key": f"o/{OWNER}/m/{snapshot_id}",
            "parent_root_key": f"o/{OWNER}/m/{parent}" if parent else None,
            "content_id": content_id,
        }

    def _answer(self, path: str, _bearer: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        match = re.fullmatch(r"/api/agent/snapshots/([\w-]+)/([\w-]+)", path)
        if match is None:
            return None
        snapshot_id, verb = match[1], match[2]
        if snapshot_id not in self.terms:
            return 404, {"code": "not_found", "message": "no such snapshot", "hint": ""}
        if body["fence"] != self.fences[snapshot_id]:
            return STAND_DOWN
        if verb == "commit":
            self.commits.append(body)
            self.committed.add(snapshot_id)
            return 200, {}
        if verb == "plan" and snapshot_id in self.committed:
            return 409, {"code": wire.COMMITTED, "message": "this snapshot is committed", "hint": ""}
        wishes = body.get("put", ())
        if verb == "plan" and snapshot_id in self.rooted and not wishes and not body.get("get"):
            return 409, {"code": wire.ROOT_PLANNED, "message": "its root was planned before", "hint": ""}
        if any(wish["key"] == self.terms[snapshot_id]["root_key"] for wish in wishes):
            self.rooted.add(snapshot_id)
        self.plans.append(body)
        assert len(body.get("put", ())) + len(body.get("get", ())) <= wire.REQUESTS_PER_PLAN
        assert verb == "plan" or not body.get("put"), "a restore has nothing to upload"
        put = [
            self.store.put_request(wish["key"], length=wish["length"], sha256=wish["sha256"], ttl_s=60)
            for wish in body.get("put", ())
        ]
        get = [self.store.get_request(key, ttl_s=60) for key in body.get("get", ())]
        return 200, {
            "terms": self.terms[snapshot_id],
            "put": list(map(_json, put)),
            "get": list(map(_json, get)),
        }

    def _transfer(self, handler: BaseHTTPRequestHandler) -> bool:
        parts = urlsplit(handler.path)
        if not parts.path.startswith("/objects/"):
            return False
        time.sleep(self.delay_s)
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
        with self.plane.changed:
            self.transfers += 1
            self.plane.changed.notify_all()
        return True


def _json(request: SignedRequest) -> dict[str, Any]:
    return {"method": request.method, "url": request.url, "headers": dict(request.headers)}
