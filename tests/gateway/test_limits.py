"""A client that is slow, greedy or silent costs little, and ends."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from agent import wire
from tests.gateway.harness import ControlPlane, GatewayProcess, token, until
from tests.gateway.web import Web

MiB = 1024 * 1024


@pytest.fixture(scope="module")
def strict(broker: object, web_server: Web) -> Iterator[GatewayProcess]:
    process = GatewayProcess(
        upstream=str(web_server.path),
        redis_url=broker.url,  # type: ignore[attr-defined]
        DORMOUSE_GATEWAY_HEADER_S="0.4",
        DORMOUSE_GATEWAY_KEEPALIVE_S="1.5",
        DORMOUSE_GATEWAY_CLIENT_IDLE_S="0.5",
        DORMOUSE_GATEWAY_WEB_ANSWER_S="0.8",
        DORMOUSE_GATEWAY_BODY_BYTES="1000000",
        DORMOUSE_GATEWAY_CONNECTIONS="40",
    )
    process.wait_for("redis connected")
    yield process
    process.close()


def read_all(client: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65536):
            received += piece
    return received


@pytest.mark.slow
def test_head_that_trickles_in_is_cut_off_in_time(strict: GatewayProcess) -> None:
    with socket.create_connection(("127.0.0.1", strict.port), timeout=5) as client:
        began = time.monotonic()
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 5:
                client.sendall(b"X-Slow: 1\r\n")
                client.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    if client.recv(1000) == b"":
                        break
        assert 0.3 < time.monotonic() - began < 1.4, "well before the keep-alive time"


def test_slow_head_of_a_later_request_is_cut_off_too(strict: GatewayProcess, web: Web) -> None:
    with socket.create_connection(("127.0.0.1", strict.port), timeout=5) as client:
        client.sendall(b"GET /status/204 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(65536).endswith(b"\r\n\r\n")
        client.sendall(b"GET /echo HT")
        began = time.monotonic()
        assert read_all(client) == b""
        assert time.monotonic() - began < 1.4


@pytest.mark.slow
def test_head_timer_does_not_touch_a_request_that_takes_long(
    strict: GatewayProcess, web: Web, control: ControlPlane
) -> None:
    control.admit("w_a")
    with socket.create_connection(("127.0.0.1", strict.port), timeout=5) as client:
        head = f"POST {wire.QUEUE}?wait=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token('w_a')}\r\n\r\n".encode()
        client.sendall(head[:50])
        time.sleep(0.1)
        client.sendall(head[50:])
        assert client.recv(1000).startswith(b"HTTP/1.1 204")


@pytest.mark.slow
def test_silent_connection_ends_after_the_keep_alive_time(strict: GatewayProcess) -> None:
    with socket.create_connection(("127.0.0.1", strict.port), timeout=10) as client:
        began = time.monotonic()
        assert client.recv(1) == b""
        assert 1 < time.monotonic() - began < 4


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 9_000 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 200,
    ],
)
def test_oversized_head_is_refused(gateway: GatewayProcess, web: Web, head: bytes) -> None:
    raw = gateway.raw(head + b"Host: x\r\n\r\n")
    assert raw.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert web.seen == []


def test_endless_head_pins_no_memory(gateway: GatewayProcess) -> None:
    gateway.request("GET", "/echo")
    before = gateway.rss_bytes
    with (
        socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as client,
        contextlib.suppress(ConnectionError),
    ):
        client.sendall(b"GET / HTTP/1.1\r\nX: ")
        for _ in range(64):
            client.sendall(b"a" * MiB)
    assert gateway.rss_bytes - before < 8 * MiB


def test_requests_piled_up_behind_a_busy_one_pin_no_memory(gateway: GatewayProcess, web: Web) -> None:
    """A client may send its next requests before the first is answered; not a million of them into our memory."""
    before = gateway.rss_bytes
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
        assert web.held.wait(10)
        client.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            for _ in range(64):
                client.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n" * 32_768)
        assert gateway.rss_bytes - before < 8 * MiB


def test_body_that_stops_is_refused_without_holding_the_web_process(strict: GatewayProcess, web: Web) -> None:
    answer = strict.raw_answer(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
    assert (answer.status, answer.json["code"]) == (408, "client_stalled")
    assert web.seen == [], "a small body is read before Django hears of it"


def test_large_body_that_stops_ends_the_upload(strict: GatewayProcess, web: Web) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n"
    assert strict.raw_answer(head, b"x" * 400_000).status == 408
    assert web.body_cut.wait(5)


@pytest.mark.slow
def test_long_upload_may_take_longer_than_any_pause(strict: GatewayProcess, web: Web) -> None:
    def slowly() -> Iterator[bytes]:
        for _ in range(12):
            time.sleep(0.1)
            yield b"x" * 50_000

    began = time.monotonic()
    answer = strict.request("POST", "/echo", body=slowly(), headers={"Content-Length": "600000"})
    assert answer.json["body_bytes"] == 600_000
    assert time.monotonic() - began > 1, "longer than client_idle_s and web_answer_s here"


def test_body_over_the_limit_is_refused_declared_or_not(strict: GatewayProcess, web: Web) -> None:
    post = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
    assert strict.raw_answer(post, b"Content-Length: 1000001\r\nExpect: 100-continue\r\n\r\n").status == 413
    assert web.seen == []
    chunks = b"%x\r\n%s\r\n" % (100_000, b"x" * 100_000) * 11
    assert strict.raw_answer(post, b"Transfer-Encoding: chunked\r\n\r\n", chunks + b"0\r\n\r\n").status == 413


def test_client_that_stops_reading_is_cut_off(strict: GatewayProcess, web: Web) -> None:
    with socket.create_connection(("127.0.0.1", strict.port)) as client:
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        assert web.hung_up.wait(10)
        strict.wait_for(r"GET /endless 200 ")


def test_web_process_that_is_silent_is_given_up(strict: GatewayProcess, web: Web) -> None:
    answer = strict.request("GET", "/hold")
    assert (answer.status, answer.json["code"]) == (504, "web_slow")
    assert web.hung_up.wait(5)


def test_status_post_that_trickles_is_refused(strict: GatewayProcess, control: ControlPlane) -> None:
    control.admit("w_a")
    head = f"POST {wire.STATUS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token('w_a')}\r\nContent-Length: 50\r\n\r\n{{"
    assert strict.raw_answer(head.encode()).status == 408


def test_one_connection_too_many_is_closed_and_the_others_go_on(strict: GatewayProcess, web: Web) -> None:
    with contextlib.ExitStack() as stack:
        first = strict.connect()
        stack.callback(first.close)
        first.connect()
        crowd = [
            stack.enter_context(socket.create_connection(("127.0.0.1", strict.port), timeout=5))
            for _ in range(60)
        ]
        strict.wait_for("one more was closed")
        first.request("GET", "/echo")
        assert first.getresponse().read()
        with contextlib.suppress(ConnectionError):
            assert crowd[-1].recv(1) == b""
    until("room again", lambda: answers(strict.request))


def answers(request: Callable[..., object]) -> bool:
    try:
        return bool(request("GET", "/gateway/healthz"))
    except OSError:
        return False
