"""Outgoing HTTP against a real server on this machine: repeated where that is safe, patient, silent about secrets."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.utils import timezone

from core.http import Http, HttpError, retry_after_s


class Server:
    """A local server that gives the answers it was told to, in turn, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.asked: list[tuple[str, str, bytes, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.asked.append((self.command, self.path, body, dict(self.headers)))
                status, headers, answer = outer.answers.pop(0)
                if status == 0:  # the connection breaks after the request was read
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(status)
                for name, value in {"Content-Length": str(len(answer)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def says(self, status: int, body: bytes = b"{}", **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, named, body))

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def http(server: Server, pauses: list[float]) -> Callable[..., Http]:
    def make(**fields: Any) -> Http:
        return Http(**{"base_url": server.url, "pause": pauses.append, **fields})

    return make


def test_one_request_one_answer(server: Server, http: Callable[..., Http]) -> None:
    server.says(404, b'{"error": "gone"}')
    answer = http(headers={"X-A": "1"}).call("POST", "/v0/x?limit=1", json={"b": 2}, headers={"X-B": "2"})
    assert (answer.status, answer.json()) == (404, {"error": "gone"})
    ((method, path, body, headers),) = server.asked
    assert (method, path, body) == ("POST", "/v0/x?limit=1", b'{"b": 2}')
    assert (headers["X-A"], headers["X-B"]) == ("1", "2")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_safe_call_is_repeated_while_the_other_side_is_busy(
    server: Server, http: Callable[..., Http], pauses: list[float], status: int
) -> None:
    server.says(status)
    server.says(status, Retry_After="3")
    server.says(200)
    assert http().call("GET", "/").status == 200
    assert pauses == [0.4, 3.0]


def test_it_gives_up_with_the_last_answer(server: Server, http: Callable[..., Http]) -> None:
    for _ in range(3):
        server.says(503)
    assert http().call("GET", "/").status == 503
    assert len(server.asked) == 3


def test_a_wait_beyond_the_cap_is_the_callers_to_decide(
    server: Server, http: Callable[..., Http], pauses: list[float]
) -> None:
    server.says(429, Retry_After="60")
    answer = http().call("GET", "/")
    assert (answer.status, answer.retry_after_s, pauses) == (429, 60, [])


def test_what_may_have_happened_is_not_done_twice(server: Server, http: Callable[..., Http]) -> None:
    server.says(503)
    assert http().call("POST", "/create").status == 503
    assert len(server.asked) == 1
    server.says(0)
    with pytest.raises(HttpError) as broken:
        http().call("POST", "/create")
    assert broken.value.sent
    assert len(server.asked) == 2


def test_the_caller_may_say_that_a_call_can_be_repeated(server: Server, http: Callable[..., Http]) -> None:
    server.says(503)
    server.says(200)
    assert http().call("POST", "/search", repeat=True).status == 200
    server.says(503)
    assert http().call("GET", "/once", repeat=False).status == 503


def test_a_broken_connection_is_tried_again_where_that_is_safe(
    server: Server, http: Callable[..., Http]
) -> None:
    server.says(0)
    server.says(200)
    assert http().call("GET", "/").status == 200


def test_nobody_there_is_told_from_no_answer(http: Callable[..., Http]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(HttpError, match=r"no connection to 127\.0\.0\.1") as refused:
        http(base_url=f"http://127.0.0.1:{port}").call("POST", "/create")
    assert not refused.value.sent


def test_silence_ends_after_the_read_timeout(http: Callable[..., Http]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(HttpError) as slow:
            http(base_url=base_url, read_timeout_s=0.1, tries=1).call("GET", "/")
    assert slow.value.sent


def test_an_answer_that_breaks_off_is_no_answer(server: Server, http: Callable[..., Http]) -> None:
    server.says(200, b"half", Content_Length="100")
    with pytest.raises(HttpError) as caught:
        http(read_timeout_s=0.3).call("POST", "/x")
    assert caught.value.sent
    server.says(200, b"no gzip", Content_Encoding="gzip")
    with pytest.raises(HttpError):
        http().call("POST", "/x")


def test_redirects_are_not_followed(server: Server, http: Callable[..., Http]) -> None:
    server.says(302, Location="http://169.254.169.254/latest")
    assert http().call("GET", "/").status == 302
    assert len(server.asked) == 1


def test_an_endless_answer_is_an_error_and_not_memory(server: Server, http: Callable[..., Http]) -> None:
    for _ in range(3):
        server.says(200, b"x" * 1001)
    with pytest.raises(HttpError, match="longer than 1000 bytes"):
        http(body_limit_bytes=1000).call("GET", "/")


def test_an_answer_that_is_no_json_is_an_error_with_its_status(
    server: Server, http: Callable[..., Http]
) -> None:
    server.says(502, b"<html>")
    with pytest.raises(HttpError, match=r"\(502\) is not JSON"):
        http(tries=1).call("GET", "/").json()


def test_nothing_secret_reaches_the_log(
    server: Server, http: Callable[..., Http], caplog: pytest.LogCaptureFixture
) -> None:
    server.says(200, b'{"token": "s3cret-body"}')
    with caplog.at_level(logging.DEBUG, logger="core"):
        http(headers={"Authorization": "Bearer s3cret-head"}).call(
            "POST", "/v0/x?api_key=s3cret-query", json={"key": "s3cret-sent"}
        )
    assert "http POST 127.0.0.1/v0/x 200" in caplog.text
    assert "s3cret" not in caplog.text


def test_nothing_secret_reaches_an_error() -> None:
    with pytest.raises(HttpError) as error:
        Http(base_url="http://user:s3cret@127.0.0.1:9", tries=1).call("GET", "/?key=s3cret")
    assert "s3cret" not in str(error.value)


def test_retry_after_is_read_as_a_number_and_as_a_date() -> None:
    assert [retry_after_s(text) for text in ("nan", "inf", "1e999", "-inf")] == [None] * 4
    assert retry_after_s("2.5") == 2.5
    assert retry_after_s("-1") == 0
    later = format_datetime(timezone.now() + timedelta(seconds=90), usegmt=True)
    assert 85 < (retry_after_s(later) or 0) <= 90
    assert retry_after_s(None) is None
    assert retry_after_s("soon") is None
