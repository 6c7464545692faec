"""A gateway process to test, and what an agent would hold: tokens, requests, raw connections."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import redis

from agent import wire
from gateway import keys

KID = "k2"
KEY = b"2" * 32
OLD_KID = "k1"
OLD_KEY = b"1" * 32
AGENT_KEYS = ",".join(
    f"{kid}:{base64.urlsafe_b64encode(key).decode()}" for kid, key in ((KID, KEY), (OLD_KID, OLD_KEY))
)

ROOT = Path(__file__).parents[2]


def token(
    worker_id: str, epoch: int = 1, *, key: Any = KEY, kid: str = KID, algorithm: str = "HS256", **claims: Any
) -> str:
    """A good access token, unless an argument says otherwise. A claim that is None is left out."""
    now = time.time()
    body = {
        "sub": worker_id,
        "epoch": epoch,
        "aud": wire.AUDIENCE,
        "iat": int(now),
        "exp": int(now) + 900,
        **claims,
    }
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, key, algorithm=algorithm, headers={"kid": kid})


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"{self.status} {self.body[:200]!r}"


class GatewayProcess:
    """`python -m gateway` on a free port. log: what it said so far, line by line."""

    def __init__(self, *, upstream: str, redis_url: str, **settings: str) -> None:
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("DORMOUSE_", "REDIS_"))
        }
        environ |= {
            "DORMOUSE_LISTEN": "127.0.0.1:0",
            "DORMOUSE_UPSTREAM": upstream,
            "REDIS_URL": redis_url,
            "DORMOUSE_AGENT_KEYS": AGENT_KEYS,
            **settings,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "gateway"],
            env=environ, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.log: list[str] = []
        self._told = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        line = self.wait_for(r"listening on http://127\.0\.0\.1:(\d+)")
        self.port = int(line[1])

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._told:
                self.log.append(line.rstrip())
                self._told.notify_all()
        with self._told:
            self._ended = True
            self._told.notify_all()

    def wait_for(self, pattern: str, *, after: int = 0, within_s: float = 10) -> re.Match[str]:
        """The first log line from number `after` on that matches."""

        def found() -> re.Match[str] | None:
            return next((match for line in self.log[after:] if (match := re.search(pattern, line))), None)

        with self._told:
            self._told.wait_for(lambda: found() or self._ended, within_s)
            match = found()
        assert match, f"no log line matches {pattern!r}: {self.log[after:]}"
        return match

    @property
    def rss_bytes(self) -> int:
        return (
            int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())[1])
            * 1024
        )  # type: ignore[index]

    def connect(self, timeout_s: float = 10) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10,
    ) -> Answer:
        connection = self.connect(timeout_s)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def raw(self, *pieces: bytes, timeout_s: float = 10) -> bytes:
        """Send bytes as they are; everything that comes back until the gateway closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as client:
            for piece in pieces:
                client.sendall(piece)
            received = b""
            while piece := client.recv(65536):
                received += piece
            return received

    def raw_answer(self, *pieces: bytes, timeout_s: float = 10) -> Answer:
        """Send bytes as they are; the one answer that comes back, without waiting for the connection's end."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as client:
            for piece in pieces:
                client.sendall(piece)
            with http.client.HTTPResponse(client) as response:
                response.begin()
                return Answer(response)

    def poll(self, text: str, wait: object = 0, timeout_s: float = 10) -> Answer:
        return self.request("POST", f"{wire.QUEUE}?wait={wait}", headers=bearer(text), timeout_s=timeout_s)

    def post(self, text: str, body: object) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", wire.STATUS, body=data, headers=bearer(text))

    def parked(self) -> int:
        return int(self.request("GET", "/gateway/healthz").json["parked_polls"])

    def wait_parked(self, count: int, within_s: float = 10) -> None:
        until("parked polls", lambda: self.parked() == count, within_s)

    def end(self, number: int = signal.SIGTERM, within_s: float = 15) -> int:
        """Send the signal and return the exit status."""
        self.process.send_signal(number)
        try:
            return self.process.wait(within_s)
        finally:
            self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


def until(what: str, condition: Any, within_s: float = 10) -> None:
    """Look until `condition` holds: for things in another process that nobody announces."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(0.005)


class ControlPlane:
    """What Django writes into Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client

    def admit(self, worker_id: str, epoch: int = 1, next_in_s: float = 30) -> None:
        self.redis.hset(keys.GATE, worker_id, json.dumps({"epoch": epoch, "next_in_s": next_in_s}))

    def revoke(self, worker_id: str) -> None:
        self.redis.hset(keys.GATE, worker_id, json.dumps({"epoch": -1, "next_in_s": 30}))
        self.redis.publish(keys.REVOKED, worker_id)

    def send(self, worker_id: str, message: bytes, *, ring: bool = True) -> None:
        """As kombu publishes: at the far end of the list; then the ring."""
        self.redis.lpush(wire.queue_key(worker_id), message)
        if ring:
            self.redis.publish(keys.RINGS, worker_id)

    def waiting(self, worker_id: str) -> list[bytes]:
        return self.redis.lrange(wire.queue_key(worker_id), 0, -1)

    def stream(self) -> list[dict[str, Any]]:
        return [json.loads(entry[b"body"]) for _, entry in self.redis.xrange(keys.STATUS_STREAM)]
