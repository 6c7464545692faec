"""One request in, one request out: what two parsers could read differently is refused or made unambiguous."""

from __future__ import annotations

import json
import re

import pytest

from agent import wire
from tests.gateway.harness import ControlPlane, GatewayProcess, token
from tests.gateway.web import Web

SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"


def status_of(raw: bytes) -> int:
    return int(raw.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5, 6",
        b"Content-Length: +5",
        b"Content-Length: -5",
        b"Content-Length: 0x5",
        b"Content-Length: 5 5",
        b"Content-Length : 5",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding:\r\n chunked",
        b"X: y\r\n folded",
        b"X: a\nTransfer-Encoding: chunked",
        b"X: a\rTransfer-Encoding: chunked",
        b"X: a\x00b",
        b"No colon here",
        b": no name",
        b"Host: second",
    ],
    ids=repr,
)
def test_ambiguous_request_is_refused_and_its_connection_ends(
    gateway: GatewayProcess, web: Web, head: bytes
) -> None:
    raw = gateway.raw(b"POST /echo HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n0\r\n\r\n" + SMUGGLED)
    assert status_of(raw) == 400
    assert len(re.findall(rb"HTTP/1\.\d \d{3} ", raw)) == 1, "nothing that follows is read"
    assert json.loads(raw.partition(b"\r\n\r\n")[2])["code"] == "bad_request"
    assert web.seen == []


@pytest.mark.parametrize(
    "line",
    [
        b"GET /",
        b"GET / HTTP/9.9",
        b"\x16\x03\x01\x02",
        b"GE(T / HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\x00",
    ],
)
def test_garbage_is_refused_in_json_without_a_traceback(
    gateway: GatewayProcess, web: Web, line: bytes
) -> None:
    seen = len(gateway.log)
    raw = gateway.raw(line + b"\r\nHost: x\r\n\r\n")
    last = [int(status) for status in re.findall(rb"HTTP/[\d.]+ (\d{3}) ", raw)][-1]
    assert last == 400
    assert not any("Traceback" in text for text in gateway.log[seen:])


def test_body_of_a_chunked_request_cannot_begin_a_second_one(gateway: GatewayProcess, web: Web) -> None:
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    gateway.raw(
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + body
    )
    gateway.raw(
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(SMUGGLED)
        + SMUGGLED
    )
    assert web.seen == ["POST /echo"] * 2


def test_line_break_in_the_path_stays_encoded(gateway: GatewayProcess, web: Web) -> None:
    gateway.request("GET", "/echo%0d%0aX-Evil:%201?a=%0d%0a")
    assert web.seen == ["GET /echo%0d%0aX-Evil:%201?a=%0d%0a"]


def test_upgrade_is_not_passed_on_and_what_follows_is_the_next_request(
    gateway: GatewayProcess, web: Web
) -> None:
    upgrade = b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
    raw = gateway.raw(upgrade + b"GET /echo/2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert raw.count(b"HTTP/1.1 200 OK") == 2
    assert b"101" not in raw.partition(b"\r\n")[0]
    assert b"websocket" not in raw
    assert web.seen == ["GET /echo", "GET /echo/2"]


@pytest.mark.parametrize("line", [b"CONNECT evil:443", b"OPTIONS *", b"GET http:///x"])
def test_what_only_a_forward_proxy_does_is_refused(gateway: GatewayProcess, web: Web, line: bytes) -> None:
    assert status_of(gateway.raw(line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")) in (400, 405)
    assert web.seen == []


def test_absolute_target_is_routed_by_its_path(
    gateway: GatewayProcess, web: Web, control: ControlPlane
) -> None:
    control.admit("w_a")
    control.send("w_a", b"mine")
    head = f"POST http://h{wire.QUEUE}?wait=0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token('w_a')}\r\n\r\n"
    assert gateway.raw(head.encode()).endswith(b"mine")
    assert web.seen == []
    assert b'"Host", "h"' in gateway.raw(
        b"GET http://h/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
