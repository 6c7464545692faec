"""A test double for the server's side of agent/wire.py: one process-local HTTP server, its state in plain attributes.

It answers as DESIGN 7 and wire.py say, and misbehaves where a test tells it to. It stands in until the agent is
met by the real control plane in the end-to-end tests.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from agent import wire

STAND_DOWN = (409, {"code": "stand_down", "message": "another box has taken over", "hint": ""})
DROP = "drop"
"""As a fault: do what was asked, then close the connection without an answer."""


@dataclass
class Dispatch:
    """One dispatch as the server sees it. times: monotonic seconds of ring and claim."""

    claim: dict[str, Any]
    claims: int = 0
    claim_bodies: list[dict[str, Any]] = field(default_factory=list)
    log: bytearray = field(default_factory=bytearray)
    log_posts: int = 0
    progress: list[dict[str, Any]] = field(default_factory=list)
    finishes: list[dict[str, Any]] = field(default_factory=list)
    late: list[dict[str, Any]] = field(default_factory=list)
    superseded: bool = False
    cancel: bool = False
    rung_s: float = 0.0

    @property
    def finish(self) -> dict[str, Any] | None:
        return self.finishes[-1] if self.finishes else None


class ControlPlane:
    """One worker's control plane. `changed` is notified after every request, so tests wait without sleeping."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.join_tokens: dict[str, str] = {"join-1": ""}
        self.worker_id, self.epoch = "w_1", 1
        self.settings: dict[str, Any] = {"check_interval_s": 30.0}
        self.next_in_s = 30.0
        self.secrets: list[str] = []
        self.spent: set[str] = set()
        self.access: set[str] = set()
        self.access_life_s = 900.0
        self.enrolments: list[dict[str, Any]] = []
        self.trades: list[str] = []
        self.statuses: list[dict[str, Any]] = []
        self.orders: list[dict[str, str]] = []
        self.answer_epoch: int | None = None
        self.queue: list[bytes] = []
        self.polls = 0
        self.parked = 0
        self.dispatches: dict[str, Dispatch] = {}
        self.faults: list[tuple[re.Pattern[str], Any, dict[str, str]]] = []
        self.extra: Callable[[str, str, dict[str, Any]], tuple[int, dict[str, Any]] | None] | None = None
        self.raw: Callable[[BaseHTTPRequestHandler], bool] | None = None
        self.requests: list[str] = []
        self.tls: ssl.SSLContext | None = None
        self._server: _Server | None = None
        self._port = 0

    # -- what a test does -------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._port}"

    def open(self) -> None:
        plane = self

        class Handler(_Handler):
            control_plane = plane

        self._server = _Server(("127.0.0.1", self._port), Handler)
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._port = int(self._server.server_address[1])
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def close(self) -> None:
        """The port is closed and every connection cut, as when the machine is gone."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut()
            self._server = None
        with self.changed:
            self.changed.notify_all()

    def dispatch(
        self, dispatch_id: str, *, kind: str = "job", fence: int = 1, ring: bool = True, **work: Any
    ) -> Dispatch:
        claim = {"dispatch_id": dispatch_id, "kind": kind, "fence": fence, "lease_s": 60, "work": work}
        made = self.dispatches[dispatch_id] = Dispatch(claim=claim)
        if ring:
            self.ring(dispatch_id)
        return made

    def ring(self, argument: str) -> None:
        with self.changed:
            if argument in self.dispatches:
                self.dispatches[argument].rung_s = time.monotonic()
            self.queue.append(celery_message(argument))
            self.changed.notify_all()

    def fault(self, path: str, answer: Any, *, times: int = 1, headers: dict[str, str] | None = None) -> None:
        """The next requests whose path matches are answered so: (status, body), or DROP."""
        self.faults += [(re.compile(path), answer, headers or {})] * times

    def wait(self, condition: Callable[[], Any], *, within_s: float = 15.0) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, timeout=within_s), "the agent did not get there in time"

    def count(self, path: str) -> int:
        return sum(1 for request in self.requests if re.search(path, request))

    # -- what the server does ---------------------------------------------------------------------

    def answer(
        self,
        path: str,
        query: dict[str, str],
        body: dict[str, Any],
        bearer: str,
        is_there: Callable[[], bool],
    ) -> tuple[int, Any]:
        if path == wire.ENROLL:
            return self._enroll(body)
        if path == wire.TOKEN:
            return self._trade(body)
        if bearer not in self.access:
            return 401, {"code": "token_expired", "message": "the token has expired", "hint": ""}
        if path == wire.STATUS:
            return self._status(body)
        if path == wire.QUEUE:
            return self._poll(float(query["wait"]), is_there)
        if self.extra is not None and (answered := self.extra(path, bearer, body)) is not None:
            return answered
        if match := re.fullmatch(r"/api/agent/dispatch/([\w-]+)/(\w+)", path):
            return self._dispatch(match[1], match[2], body)
        return 404, {"code": "not_found", "message": "no such route", "hint": ""}

    def _enroll(self, body: dict[str, Any]) -> tuple[int, Any]:
        used_by = self.join_tokens.get(body["token"])
        if used_by is None or used_by not in ("", body.get("request_id")):
            return 403, {
                "code": "token_used",
                "message": "this token has been used",
                "hint": "make a new one",
            }
        self.join_tokens[body["token"]] = body["request_id"]
        self.enrolments.append(body)
        return 200, self._credentials()

    def _trade(self, body: dict[str, Any]) -> tuple[int, Any]:
        secret = body["secret"]
        self.trades.append(secret)
        if secret in self.spent or secret not in self.secrets:
            return 401, {"code": "unknown_secret", "message": "this worker is not known", "hint": ""}
        # The older secrets end when a newer one is used.
        self.spent.update(self.secrets[: self.secrets.index(secret)])
        return 200, self._credentials()

    def _credentials(self) -> dict[str, Any]:
        secret, access = uuid.uuid4().hex, f"access-{uuid.uuid4().hex}"
        self.secrets.append(secret)
        self.access.add(access)
        return {
            "worker_id": self.worker_id,
            "epoch": self.epoch,
            "secret": secret,
            "access_token": access,
            "access_expires_in_s": self.access_life_s,
            "settings": self.settings,
        }

    def _status(self, body: dict[str, Any]) -> tuple[int, Any]:
        wire.StatusPost.from_json(body)
        self.statuses.append(body)
        epoch = self.epoch if self.answer_epoch is None else self.answer_epoch
        return 200, {"next_in_s": self.next_in_s, "epoch": epoch, "orders": list(self.orders)}

    def _poll(self, wait_s: float, is_there: Callable[[], bool]) -> tuple[int, Any]:
        # Called with `changed` held: waiting gives it back. A message is not handed to a client that has gone.
        self.polls += 1
        self.parked += 1
        server = self._server
        self.changed.notify_all()
        self.changed.wait_for(lambda: self.queue or self._server is not server, timeout=wait_s)
        self.parked -= 1
        return (
            (200, self.queue.pop(0)) if self.queue and self._server is server and is_there() else (204, None)
        )

    def _dispatch(self, dispatch_id: str, verb: str, body: dict[str, Any]) -> tuple[int, Any]:
        held = self.dispatches.get(dispatch_id)
        if held is None:
            return 404, {"code": "not_found", "message": "no such dispatch", "hint": ""}
        if held.superseded or (verb != "claim" and body["fence"] != held.claim["fence"]):
            if verb == "finish":
                held.late.append(body)
            return STAND_DOWN
        match verb:
            case "claim":
                held.claims += 1
                held.claim_bodies.append(body)
                return 200, held.claim
            case "log":
                held.log_posts += 1
                raw = wire.LogPost.raw(body["data"])
                if body["offset"] <= len(held.log):
                    held.log[body["offset"] :] = (
                        raw if body["offset"] + len(raw) >= len(held.log) else held.log[body["offset"] :]
                    )
                return 200, {"offset": len(held.log)}
            case "progress":
                held.progress.append(body)
                return 200, {"cancel": held.cancel}
            case "finish":
                held.finishes.append(body)
                return 200, {}
        return 404, {}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def cut(self) -> None:
        for connection in list(self._open):
            self.shutdown_request(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was cut."""


class _Handler(BaseHTTPRequestHandler):
    control_plane: ControlPlane
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        plane = self.control_plane
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(raw) if raw else {}
        bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        with plane.changed:
            plane.requests.append(parts.path)
            fault = next((f for f in plane.faults if f[0].search(parts.path)), None)
            headers: dict[str, str] = {}
            if fault is not None:
                plane.faults.remove(fault)
                headers = fault[2]
            if fault is None or fault[1] == DROP:
                query = dict(parse_qsl(parts.query))
                status, answer = plane.answer(parts.path, query, body, bearer, self._is_there)
            else:
                status, answer = fault[1]
            plane.changed.notify_all()
        if fault is not None and fault[1] == DROP:
            self.close_connection = True
            return
        payload = (
            answer if isinstance(answer, bytes) else b"" if answer is None else json.dumps(answer).encode()
        )
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)
        self.wfile.flush()

    def _is_there(self) -> bool:
        if isinstance(self.connection, ssl.SSLSocket):
            return True
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _other(self) -> None:
        if self.control_plane.raw is None or not self.control_plane.raw(self):
            self.send_error(404)

    do_GET = do_PUT = _other

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def celery_message(*arguments: Any, task: str = wire.TASK_RING) -> bytes:
    """A message as kombu's Redis transport puts it into the list (protocol 2)."""
    task_id = str(uuid.uuid4())
    body = json.dumps(
        [list(arguments), {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    )
    message = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": task_id,
            "root_id": task_id,
            "parent_id": None,
            "group": None,
            "retries": 0,
            "eta": None,
            "expires": None,
            "timelimit": [None, None],
            "argsrepr": "",
            "kwargsrepr": "{}",
            "origin": "test",
        },
        "properties": {
            "correlation_id": task_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "w:w_1:jobs"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return json.dumps(message).encode()


def opened() -> Iterator[ControlPlane]:
    plane = ControlPlane()
    plane.open()
    try:
        yield plane
    finally:
        plane.close()
