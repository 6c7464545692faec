"""A local box runs the real agent: it enrols with the box's token and reads the box's GPU."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agent import wire
from hibernation.providers.base import OfferQuery, Phase
from hibernation.providers.local_process import descendants
from tests.hibernation.providers.hosts import DISK_BYTES, LocalHost, box_spec, eventually

CREDENTIALS = {
    "worker_id": "w_1",
    "epoch": 1,
    "secret": "s",
    "access_token": "t",
    "access_expires_in_s": 900,
    "settings": {"check_interval_s": 0.2},
}


class ControlPlane(ThreadingHTTPServer):
    """Enrols whoever comes, takes status posts, and has no work. posts: what was sent, by path."""

    daemon_threads = True

    def __init__(self) -> None:
        self.posts: dict[str, list[dict[str, Any]]] = {}
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: ControlPlane
    answers = {wire.ENROLL: CREDENTIALS, wire.STATUS: {"next_in_s": 0.2, "epoch": 1, "orders": []}}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.answers.get(self.path)
        if answer is not None:
            self.server.posts.setdefault(self.path, []).append(json.loads(body))
        self.send_response(503 if answer is None else 200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer or {}).encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_the_agent_of_a_box_enrols_and_says_what_gpu_it_has(
    make_host: Callable[..., LocalHost], control_plane: ControlPlane
) -> None:
    host = make_host(command="", grace_s=5).start()
    assert host.process is not None
    offer = host.provider.offers(OfferQuery(gpu_type="A100", disk_bytes=DISK_BYTES))[0]
    spec = box_spec("dm-1", url=control_plane.url, join_token="e-once", agent_name="night-owl")
    ref = host.provider.create(offer.id, spec)
    posts = eventually(lambda: control_plane.posts.get(wire.STATUS), within_s=30)
    [enrolled] = control_plane.posts[wire.ENROLL]
    assert (enrolled["token"], enrolled["name"], enrolled["provider"]) == ("e-once", "night-owl", "local")
    assert posts[0]["gpus"][0]["name"] == offer.gpu_name == "A100"
    assert posts[0]["gpus"][0]["mem_total_bytes"] == offer.gpu_mem_bytes
    assert host.phase(ref) is Phase.RUNNING
    host.provider.destroy(ref)
    host.until_gone(ref)
    assert descendants(host.process.pid) == []
