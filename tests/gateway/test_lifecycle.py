from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.app import Gateway
from gateway.settings import Settings, Upstream
from tests.gateway.harness import AGENT_KEYS, KEY, KID, ROOT, ControlPlane, GatewayProcess, token, until
from tests.gateway.web import Web
from tests.servers import valkey


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_end_frees_parked_polls_and_lets_running_requests_finish(
    make_gateway: Callable[..., GatewayProcess], control: ControlPlane, web: Web, number: int
) -> None:
    gateway = make_gateway()
    control.admit("w_a")
    with ThreadPoolExecutor(3) as pool:
        poll = pool.submit(gateway.poll, token("w_a"), 20)
        held = pool.submit(gateway.request, "POST", "/hold", body=b"x" * 300_000)
        idle = gateway.connect()
        idle.connect()
        gateway.wait_parked(1)
        assert web.held.wait(10)
        gateway.process.send_signal(number)
        began = time.monotonic()
        assert poll.result().status == 204
        assert time.monotonic() - began < 2
        assert idle.sock.recv(1) == b"", "an idle connection ends at once"
        until("no more connections", lambda: refused(gateway.port))
        assert gateway.process.poll() is None, "it waits for the request that runs"
        web.release.set()
        answer = held.result()
        assert (answer.status, answer.body) == (200, b"held")
        assert answer.headers["Connection"] == "close"
        idle.close()
    assert gateway.process.wait(5) == 0
    gateway.close()
    assert not any("Traceback" in line for line in gateway.log), gateway.log


def test_upload_that_is_under_way_at_the_end_arrives_whole(
    make_gateway: Callable[..., GatewayProcess], web: Web
) -> None:
    gateway = make_gateway()
    client = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    client.sendall(b"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000)
    until("the request at the web process", lambda: web.seen == ["PUT /echo"])
    gateway.process.send_signal(signal.SIGTERM)
    gateway.wait_for("ending")
    client.sendall(b"x" * 500_000)
    response = http.client.HTTPResponse(client)
    response.begin()
    assert b'"body_bytes": 1000000' in response.read()
    response.close()
    client.close()
    assert gateway.process.wait(5) == 0


@pytest.mark.slow
def test_request_that_does_not_finish_is_cut_off_after_the_drain(
    make_gateway: Callable[..., GatewayProcess], web: Web
) -> None:
    gateway = make_gateway(DORMOUSE_GATEWAY_DRAIN_S="0.3")
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(gateway.request, "GET", "/hold")
        assert web.held.wait(10)
        began = time.monotonic()
        assert gateway.end() == 0
        assert time.monotonic() - began < 5
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            held.result()
    assert any("1 requests did not finish" in line for line in gateway.log)


def test_end_does_not_hang_whatever_the_start_was_doing(broker: valkey.Valkey, web: Web) -> None:
    """Ends after 0, 1, 2 … turns of the loop: while connecting to Redis, subscribing, and so on."""
    settings = Settings(
        listen_host="127.0.0.1",
        listen_port=0,
        upstream=Upstream(socket_path=str(web.path)),
        redis_url=broker.url,
        agent_keys={KID: KEY},
    )

    async def scene(turns: int) -> None:
        gateway = Gateway(settings)
        await gateway.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(2):
            await gateway.stop()

    for turns in range(30):
        asyncio.run(scene(turns))


@pytest.mark.slow
def test_message_sent_while_the_gateway_ends_stays_in_the_queue(
    make_gateway: Callable[..., GatewayProcess], control: ControlPlane
) -> None:
    gateway = make_gateway()
    control.admit("w_a")
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(gateway.poll, token("w_a"), 20)
        gateway.wait_parked(1)
        gateway.process.send_signal(signal.SIGTERM)
        assert poll.result().status == 204
        control.send("w_a", b"x")
    assert gateway.process.wait(5) == 0
    assert control.waiting("w_a") == [b"x"]


@pytest.mark.slow
def test_second_gateway_on_the_same_port_says_so_and_exits_2(gateway: GatewayProcess, web: Web) -> None:
    environ = {
        "DORMOUSE_LISTEN": f"127.0.0.1:{gateway.port}",
        "DORMOUSE_UPSTREAM": str(web.path),
        "REDIS_URL": "unix:///nowhere.sock",
        "DORMOUSE_AGENT_KEYS": AGENT_KEYS,
    }
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "gateway"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert ran.returncode == 2
    assert re.search(
        r"^gateway: DORMOUSE_LISTEN 127\.0\.0\.1:\d+ cannot be had: Address already in use", ran.stderr, re.M
    )
    assert "Traceback" not in ran.stderr


def test_health_is_the_gateways_own(gateway: GatewayProcess, web: Web) -> None:
    answer = gateway.request("GET", "/gateway/healthz")
    assert (answer.status, answer.json) == (
        200,
        {"status": "ok", "redis": True, "web": True, "parked_polls": 0},
    )
    assert web.seen == []
    assert gateway.request("POST", "/gateway/healthz").status == 405
    for path in ("/healthz", "/readyz", "/gateway/other"):
        assert gateway.request("GET", path).json["line"].startswith(f"GET {path} "), "these are Django's"


def test_polls_and_posts_are_counted_not_logged(
    make_gateway: Callable[..., GatewayProcess], control: ControlPlane
) -> None:
    gateway = make_gateway()
    control.admit("w_a")
    for _ in range(3):
        gateway.poll(token("w_a"))
        gateway.post(token("w_a"), {"worker_id": "w_a", "epoch": 1})
    gateway.poll("nonsense")
    assert gateway.end() == 0
    assert not any("/api/agent" in line for line in gateway.log)
    assert re.search(
        r"polls=3 delivered=0 returned=0 posts=3 passed=0 refused: 401_token_invalid=1", gateway.log[-1]
    )


def test_log_lines_are_json_where_that_is_asked_for(
    make_gateway: Callable[..., GatewayProcess], web: Web
) -> None:
    gateway = make_gateway(LOG_FORMAT="json")
    gateway.request("GET", '/echo/"quoted"')
    assert gateway.end() == 0
    lines = [json.loads(line) for line in gateway.log]
    assert [line["message"].split()[0] for line in lines if line["logger"] == "gateway.access"] == ["GET"]
    assert all(set(line) == {"at", "level", "logger", "message", "process"} for line in lines)


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionError:
        return True
    return False
