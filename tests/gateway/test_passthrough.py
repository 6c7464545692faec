from __future__ import annotations

import hashlib
import http.client
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.gateway.harness import GatewayProcess, until
from tests.gateway.web import PIECE, Web

pytestmark = pytest.mark.usefixtures("web")

MiB = 1024 * 1024


def headers_at_web(answer_json: dict[str, list[list[str]]], name: str) -> list[str]:
    return [value for found, value in answer_json["headers"] if found.lower() == name.lower()]


# -- what crosses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/a%2Fb/../c//d?x=%20+&y=%zz&z",
        "/./x",
        "/?",
        "//evil.example/x",
        "/i/abc/tree?token=1",
        "/caf%C3%A9",
        "/a;b=c,d@e:f!$'()*[]|",
    ],
)
def test_path_and_query_cross_as_they_came(gateway: GatewayProcess, path: str) -> None:
    answer = gateway.request("GET", path)
    # An empty query is the one thing that HTTP lets a proxy drop.
    assert answer.json["line"] == f"GET {path.removesuffix('?')} HTTP/1.1"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"])
def test_method_crosses(gateway: GatewayProcess, method: str) -> None:
    assert gateway.request(method, "/echo").json["line"].startswith(method)


def test_request_headers_cross_untouched_and_none_is_added(gateway: GatewayProcess) -> None:
    headers = {
        "Cookie": 'a=1; b="x y"',
        "X-Thing": "ä",
        "Accept-Encoding": "br",
        "Authorization": "Bearer t",
        "If-None-Match": '"e"',
    }
    raw = gateway.raw(
        b"GET /echo HTTP/1.1\r\nHost: pool.example:8443\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
        + b"Connection: close\r\n\r\n"
    )
    told = json.loads(raw.partition(b"\r\n\r\n")[2])
    ours = {
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "pool.example:8443",
    }
    assert dict(told["headers"]) == headers | ours | {"Host": "pool.example:8443", "Connection": "close"}


def test_client_cannot_set_its_own_address(gateway: GatewayProcess) -> None:
    spoofed = {
        "X-Forwarded-For": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
        "X_Forwarded_For": "6.6.6.6",
        "X-Forwarded-Proto": "https",
    }
    told = gateway.request("GET", "/echo", headers=spoofed).json
    assert "6.6.6.6" not in str(told)
    assert headers_at_web(told, "X-Forwarded-For") == ["127.0.0.1"]
    assert headers_at_web(told, "X-Forwarded-Proto") == ["http"]


def test_both_cookies_arrive(gateway: GatewayProcess) -> None:
    answer = gateway.request("GET", "/cookies")
    assert answer.headers.get_all("Set-Cookie") == ["csrftoken=a; Path=/", "sessionid=b; HttpOnly; Path=/"]


def test_cookies_of_one_answer_do_not_leak_into_the_next_request(gateway: GatewayProcess) -> None:
    gateway.request("GET", "/cookies")
    assert headers_at_web(gateway.request("GET", "/echo").json, "Cookie") == []


def test_redirect_is_the_clients_to_follow(gateway: GatewayProcess, web: Web) -> None:
    answer = gateway.request("GET", "/status/302")
    assert (answer.status, answer.headers["Location"], answer.body) == (302, "/echo", b"")
    assert web.seen == ["GET /status/302"]


@pytest.mark.parametrize("status", [204, 304])
def test_answer_without_a_body_has_none_and_the_connection_goes_on(
    gateway: GatewayProcess, status: int
) -> None:
    connection = gateway.connect()
    for _ in range(2):
        connection.request("GET", f"/status/{status}")
        response = connection.getresponse()
        assert (response.status, response.read(), response.headers["ETag"]) == (status, b"", '"abc"')
        assert response.headers["Transfer-Encoding"] is None
    connection.close()


def test_head_tells_the_length_and_sends_nothing(gateway: GatewayProcess) -> None:
    connection = gateway.connect()
    for _ in range(2):
        connection.request("HEAD", "/bytes/12345")
        response = connection.getresponse()
        assert (response.status, response.headers["Content-Length"], response.read()) == (200, "12345", b"")
    connection.close()


def test_range_crosses(gateway: GatewayProcess) -> None:
    answer = gateway.request("GET", "/range", headers={"Range": "bytes=100-199"})
    assert (answer.status, answer.body) == (206, PIECE[100:200])
    assert answer.headers["Content-Range"] == f"bytes 100-199/{len(PIECE)}"


def test_encoded_answer_is_not_decoded(gateway: GatewayProcess) -> None:
    answer = gateway.request("GET", "/gzip")
    assert (answer.body, answer.headers["Content-Encoding"]) == (b"\x1f\x8b not really gzip", "gzip")


def test_encoded_request_is_not_decoded(gateway: GatewayProcess) -> None:
    body = b"\x1f\x8b not really gzip"
    told = gateway.request("POST", "/echo", body=body, headers={"Content-Encoding": "gzip"}).json
    assert told["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert headers_at_web(told, "Content-Encoding") == ["gzip"]


def test_hop_by_hop_headers_of_the_answer_stay_here(gateway: GatewayProcess) -> None:
    headers = gateway.request("GET", "/hop").headers
    assert headers["X-Open"] == "2"
    assert [headers[name] for name in ("X-Secret", "Keep-Alive", "Connection")] == [None, None, None]


def test_latin1_header_keeps_its_letters(gateway: GatewayProcess) -> None:
    assert gateway.request("GET", "/latin").headers["X-Name"].encode("latin-1").decode() == "café"


@pytest.mark.parametrize("path", ["/bytes/1000000", "/chunked/1000000", "/until_close/1000000"])
def test_answer_arrives_whole_however_its_end_is_told(gateway: GatewayProcess, path: str) -> None:
    connection = gateway.connect()
    for _ in range(2):
        connection.request("GET", path)
        assert connection.getresponse().read() == (PIECE * 16)[:1_000_000]
    connection.close()


def test_old_client_gets_no_chunks(gateway: GatewayProcess) -> None:
    raw = gateway.raw(b"GET /chunked/1000 HTTP/1.0\r\nHost: x\r\n\r\n")
    head, _, body = raw.partition(b"\r\n\r\n")
    assert body == PIECE[:1000]
    assert b"chunked" not in head


# -- bodies -------------------------------------------------------------------------------------


def pieces(total: int) -> Iterator[bytes]:
    while total > 0:
        yield PIECE[:total]
        total -= len(PIECE)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 3_000_001])
@pytest.mark.parametrize("chunked", [False, True])
def test_body_arrives_whole(gateway: GatewayProcess, size: int, chunked: bool) -> None:
    data = b"".join(pieces(size))
    told = gateway.request("POST", "/echo", body=iter([data]) if chunked else data).json
    assert (told["body_bytes"], told["body_sha256"]) == (size, hashlib.sha256(data).hexdigest())
    lengths, encodings = headers_at_web(told, "Content-Length"), headers_at_web(told, "Transfer-Encoding")
    assert len(lengths) + len(encodings) == 1, "never both"
    if size < 65_536:
        assert lengths == [str(size)], "a small body has a length, without which WSGI takes it to be empty"


def test_upload_and_download_of_64_mib_need_no_memory_to_speak_of(gateway: GatewayProcess) -> None:
    size = 64 * MiB
    digest = hashlib.sha256()
    for piece in pieces(size):
        digest.update(piece)
    gateway.request("POST", "/echo", body=b"".join(pieces(MiB)))
    before = gateway.rss_bytes
    told = gateway.request(
        "PUT", "/echo", body=pieces(size), headers={"Content-Length": str(size)}, timeout_s=60
    ).json
    assert (told["body_bytes"], told["body_sha256"]) == (size, digest.hexdigest())
    got = hashlib.sha256(gateway.request("GET", f"/bytes/{size}", timeout_s=60).body)
    assert got.hexdigest() == digest.hexdigest()
    assert gateway.rss_bytes - before < 8 * MiB


def test_client_that_reads_slowly_holds_the_web_process_back_instead_of_filling_memory(
    gateway: GatewayProcess, web: Web
) -> None:
    before = gateway.rss_bytes
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        received = 0
        while received < 30 * MiB:
            received += len(client.recv(MiB))
        assert gateway.rss_bytes - before < 8 * MiB
    assert web.hung_up.wait(10), "a client that leaves ends the request at the web process"


def test_client_that_leaves_while_waiting_cancels_the_request(gateway: GatewayProcess, web: Web) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
        assert web.held.wait(10)
    assert web.hung_up.wait(10)
    gateway.wait_for(r"GET /hold 499 ")


def test_client_that_leaves_within_its_upload_is_seen_as_a_broken_upload(
    gateway: GatewayProcess, web: Web
) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(
            b"PUT /echo/cut HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000
        )
        until("the request at the web process", lambda: web.seen == ["PUT /echo/cut"])
    assert web.body_cut.wait(10)


def test_expect_100_is_answered_and_the_body_follows(gateway: GatewayProcess) -> None:
    body = b"y" * 200_000
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        response = http.client.HTTPResponse(client)
        response.begin()
        told = json.loads(response.read())
    assert told["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert headers_at_web(told, "Expect") == []


def test_other_expectations_are_refused(gateway: GatewayProcess) -> None:
    assert gateway.request("POST", "/echo", body=b"x", headers={"Expect": "miracles"}).status == 417


def test_answer_before_the_body_was_read_reaches_the_client(gateway: GatewayProcess) -> None:
    answer = gateway.request("POST", "/refuse_early", body=b"x" * (2 * MiB))
    assert (answer.status, answer.body) == (413, b"too large")


@pytest.mark.parametrize("path", ["/short", "/broken_chunks"])
def test_answer_that_breaks_off_is_not_passed_on_as_whole(gateway: GatewayProcess, path: str) -> None:
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        gateway.request("GET", path)


def test_web_process_that_dies_within_a_request_is_told_as_unknown(gateway: GatewayProcess, web: Web) -> None:
    answer = gateway.request("POST", "/vanish", body=b"x")
    assert (answer.status, answer.json["code"]) == (502, "web_broke_off")
    assert web.seen == ["POST /vanish"], "a POST is not tried twice"


def test_many_requests_on_one_connection(gateway: GatewayProcess) -> None:
    connection = gateway.connect()
    for n in range(50):
        connection.request("POST", f"/echo?{n}", body=b"z" * n)
        assert json.loads(connection.getresponse().read())["body_bytes"] == n
    connection.close()


def test_requests_run_beside_each_other(gateway: GatewayProcess, web: Web) -> None:
    with ThreadPoolExecutor(20) as pool:
        held = [pool.submit(gateway.request, "GET", "/hold") for _ in range(19)]
        assert web.held.wait(10)
        assert gateway.request("GET", "/echo").status == 200
        web.release.set()
        assert {answer.result().body for answer in held} == {b"held"}


def test_access_log_has_a_line_for_each_request_without_its_query(gateway: GatewayProcess) -> None:
    seen = len(gateway.log)
    gateway.request("GET", "/bytes/1234?token=secret")
    gateway.wait_for(r"gateway\.access GET /bytes/1234 200 \d+\.\dms 1234B$", after=seen)
    assert not any("secret" in line for line in gateway.log)
