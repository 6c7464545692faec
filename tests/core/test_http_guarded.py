"""Asking addresses that somebody else wrote, against real servers on this machine."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from core.http import HttpError
from core.http_guarded import GuardedHttp
from core.places import Place, Reach

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
NAME = "health.example.org"


class Line:
    """A server that answers each connection with what it was told, byte by byte where asked to, and keeps what it read."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        self.pause_s = 0.0
        self.asked: list[bytes] = []
        self._context = context
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
                with connection:
                    self._talk(connection)
            except OSError:
                if self._server.fileno() < 0:
                    return

    def _talk(self, connection: socket.socket) -> None:
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_side=True)
        self.asked.append(connection.recv(65536))
        if not self.pause_s:
            connection.sendall(self.answer)
        else:
            for byte in self.answer:
                connection.sendall(bytes([byte]))
                time.sleep(self.pause_s)
        if self._context is not None:
            connection.close()

    def stop(self) -> None:
        self._server.close()


@pytest.fixture
def line() -> Iterator[Line]:
    running = Line()
    yield running
    running.stop()


def guarded(
    *, name: str = NAME, resolves: Any = ("127.0.0.1",), private: Any = LOOPBACK, **more: Any
) -> GuardedHttp:
    places = (Place("http", name, None, None), Place("https", name, None, None))
    return GuardedHttp(
        reach=Reach(places=places, private=private), resolve=lambda host, port: list(resolves), **more
    )


def test_the_host_is_named_as_it_was_asked_for(line: Line) -> None:
    answer = guarded().call(
        "GET", f"http://{NAME}:{line.port}/health", headers={"Accept": "application/json"}
    )
    assert (answer.status, answer.json()) == (200, {})
    head = line.asked[0].decode().split("\r\n")
    assert head[0] == "GET /health HTTP/1.1"
    assert f"Host: {NAME}:{line.port}" in head and "Accept: application/json" in head


def test_the_number_that_was_checked_is_the_one_that_is_connected_to(line: Line) -> None:
    """The name points to a server of ours first, and to nowhere good when it is looked up again."""
    answers: list[list[str]] = [["127.0.0.1"], ["169.254.169.254"]]
    http = GuardedHttp(
        reach=Reach(places=(Place.parse(f"http://{NAME}:*"),), private=LOOPBACK),
        resolve=lambda host, port: answers.pop(0),
    )
    assert http.call("GET", f"http://{NAME}:{line.port}/health").status == 200
    assert answers == [["169.254.169.254"]]
    with pytest.raises(HttpError, match="not a public address"):
        http.call("GET", f"http://{NAME}:{line.port}/health")
    assert len(line.asked) == 1


@pytest.mark.parametrize("resolves", [["127.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["::ffff:127.0.0.1"]])
def test_a_name_with_a_private_number_is_not_asked(line: Line, resolves: list[str]) -> None:
    with pytest.raises(HttpError, match="not a public address") as refused:
        guarded(resolves=resolves, private=()).call("GET", f"http://{NAME}:{line.port}/health")
    assert not refused.value.sent
    assert line.asked == []


def test_another_host_is_not_even_looked_up(line: Line) -> None:
    def never(host: str, port: int) -> list[str]:
        raise AssertionError("looked up")

    http = GuardedHttp(reach=Reach(places=(Place.parse("https://x.example.org"),)), resolve=never)
    with pytest.raises(HttpError, match="not among the places"):
        http.call("GET", f"http://127.0.0.1:{line.port}/health")


def test_redirects_are_an_answer_and_not_followed(line: Line) -> None:
    line.answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    assert guarded().call("GET", f"http://{NAME}:{line.port}/health").status == 302
    assert len(line.asked) == 1


def test_no_proxy_of_this_machine_is_used(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert guarded().call("GET", f"http://{NAME}:{line.port}/health").status == 200


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2000 + b"\r\n\r\n",
    ],
)
def test_dripping_ends_when_the_time_is_over(line: Line, answer: bytes) -> None:
    line.answer, line.pause_s = answer, 0.01
    started = time.monotonic()
    with pytest.raises(HttpError) as slow:
        guarded(total_s=0.3).call("GET", f"http://{NAME}:{line.port}/health")
    assert slow.value.sent
    assert time.monotonic() - started < 2


def test_a_look_up_that_hangs_ends_as_well() -> None:
    free = threading.Event()

    def hangs(host: str, port: int) -> list[str]:
        free.wait(10)
        return []

    http = GuardedHttp(reach=Reach(), resolve=hangs, total_s=0.2)
    with pytest.raises(HttpError, match="looked up in time"):
        http.call("GET", f"http://{NAME}/health")
    free.set()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000, "longer than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b"x" * 10, "broke off|no answer"),
        (b"SSH-2.0-OpenSSH_9\r\n", "no answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "no answer"),
        (b"", "no answer"),
    ],
)
def test_what_is_no_answer_is_an_error(line: Line, answer: bytes, why: str) -> None:
    line.answer = answer
    with pytest.raises(HttpError, match=why):
        guarded(body_limit_bytes=1000).call("GET", f"http://{NAME}:{line.port}/health")


def test_nobody_there_is_said_without_the_path() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(HttpError, match=f"no connection to {NAME}") as error:
        guarded().call("GET", f"http://{NAME}:{port}/health?s3cret")
    assert not error.value.sent and "s3cret" not in str(error.value)


# -- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of its own authority for NAME, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def tls(certificate: Path) -> Iterator[tuple[Line, Callable[[], ssl.SSLContext]]]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    running = Line(server)
    yield running, lambda: ssl.create_default_context(cafile=str(certificate))
    running.stop()


def test_the_certificate_is_checked_against_the_name(tls: tuple[Line, Callable[[], ssl.SSLContext]]) -> None:
    line, trusts = tls
    assert guarded(context=trusts).call("GET", f"https://{NAME}:{line.port}/health").status == 200
    with pytest.raises(HttpError, match="no safe connection to other"):
        guarded(name="other.example.org", context=trusts).call(
            "GET", f"https://other.example.org:{line.port}/"
        )


def test_an_unknown_authority_is_not_trusted(tls: tuple[Line, Callable[[], ssl.SSLContext]]) -> None:
    line, _ = tls
    with pytest.raises(HttpError, match="no safe connection"):
        guarded().call("GET", f"https://{NAME}:{line.port}/health")
    assert line.asked == []


def test_a_handshake_that_never_comes_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://{NAME}:{silent.getsockname()[1]}/health"
        with pytest.raises(HttpError, match="in time"):
            guarded(total_s=0.2).call("GET", url)
