"""Outgoing HTTP to addresses that somebody else wrote: one request, to a place that the operator allows.

The host is looked up once, every number that it has is checked, and the connection goes to a number that was checked:
a name that points elsewhere a moment later changes nothing. No redirect is followed, no proxy and no credentials of
this machine are used; the whole exchange has one time limit, however slowly the other side drips, and a longer answer
than asked for is an error.
"""

from __future__ import annotations

import http.client
import logging
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import certifi

from core.http import Answer, HttpError
from core.places import NotAllowed, Reach, Target

log = logging.getLogger(__name__)

Resolve = Callable[[str, int], list[str]]


def addresses_of(host: str, port: int) -> list[str]:
    """The numbers of a host, as the system's resolver says. OSError where it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(row[4][0]) for row in found))


@cache
def _context() -> ssl.SSLContext:
    """The system's authorities (SSL_CERT_FILE counts), and those that every other call of ours trusts."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


@dataclass(frozen=True, kw_only=True)
class GuardedHttp:
    """total_s: for everything, from the look-up to the last byte. body_limit_bytes: of the answer."""

    reach: Reach
    total_s: float = 5.0
    body_limit_bytes: int = 64 * 1024
    resolve: Resolve = addresses_of
    context: Callable[[], ssl.SSLContext] = _context

    def call(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request, never repeated. Raises HttpError where it may not be made, or where no answer came."""
        started_s = time.monotonic()
        deadline_s = started_s + self.total_s
        try:
            target = self.reach.target(url)
        except NotAllowed as refused:
            raise HttpError(str(refused), sent=False) from refused
        numbers = self._numbers(target, deadline_s)
        line = _Line(_connected(target, numbers, deadline_s), deadline_s)
        try:
            if target.scheme == "https":
                line.encrypt(self.context(), target.host)
            answer = _exchange(line, target, method, body, dict(headers or {}), self.body_limit_bytes)
        finally:
            line.close()
        log.info(
            "http %s %s%s %d %.0f ms", method, target.host, target.path.partition("?")[0], answer.status,
            1000 * (time.monotonic() - started_s),
        )  # fmt: skip
        return answer

    def _numbers(self, target: Target, deadline_s: float) -> list[str]:
        """Every number of the host, all of them allowed: a name with one that is not is not trusted with the others."""
        numbers = [target.host] if target.number is not None else _looked_up(self.resolve, target, deadline_s)
        for number in numbers:
            refusal = self.reach.refusal(target, number)
            if refusal is not None:
                raise HttpError(refusal, sent=False)
        return numbers


def _connected(target: Target, numbers: list[str], deadline_s: float) -> socket.socket:
    problem: OSError | None = None
    for number in numbers:
        try:
            return socket.create_connection((number, target.port), timeout=_left_s(deadline_s))
        except OSError as error:
            problem = error
    raise HttpError(f"no connection to {target.host}: {problem}"[:300], sent=False) from problem


class _Line:
    """A connection that is cut when its time is over: a socket's own time limit starts anew with every byte."""

    def __init__(self, plain: socket.socket, deadline_s: float) -> None:
        self.socket = plain
        self.deadline_s = deadline_s
        self._over = threading.Timer(_left_s(deadline_s), self._cut)
        self._over.daemon = True
        self._over.start()

    @property
    def late(self) -> bool:
        return time.monotonic() >= self.deadline_s

    def encrypt(self, context: ssl.SSLContext, host: str) -> None:
        """TLS, for the name that was asked for and not for the number that it led to."""
        try:
            wrapped = context.wrap_socket(self.socket, server_hostname=host, do_handshake_on_connect=False)
            self.socket = wrapped
            wrapped.do_handshake()
        except (OSError, ValueError) as error:
            why = "it did not answer in time" if self.late else str(error)
            raise HttpError(f"no safe connection to {host}: {why}"[:300], sent=False) from error

    def close(self) -> None:
        self._over.cancel()
        self.socket.close()

    def _cut(self) -> None:
        try:
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)
        except OSError:
            return  # it has ended by itself


def _looked_up(resolve: Resolve, target: Target, deadline_s: float) -> list[str]:
    """The system's resolver has no time limit of its own, so it is asked in a thread that may outlive the question."""
    answers: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(resolve(target.host, target.port))
        except (OSError, UnicodeError) as error:
            answers.put(OSError(str(error)))

    threading.Thread(target=ask, name=f"look up {target.host}", daemon=True).start()
    try:
        found = answers.get(timeout=_left_s(deadline_s))
    except queue.Empty:
        raise HttpError(f"{target.host} could not be looked up in time", sent=False) from None
    if isinstance(found, OSError) or not found:
        raise HttpError(f"{target.host} could not be looked up", sent=False)
    return found


def _exchange(
    line: _Line,
    target: Target,
    method: str,
    body: bytes | None,
    headers: dict[str, str],
    limit_bytes: int,
) -> Answer:
    talk = http.client.HTTPConnection(target.host, target.port)
    talk.sock = line.socket
    try:
        talk.request(
            method,
            target.path,
            body=body,
            headers={"Host": target.authority, "Connection": "close", **headers},
        )
        response = talk.getresponse()
        received = response.read(limit_bytes + 1)
    except (OSError, http.client.HTTPException) as error:
        why = "not in time" if line.late else type(error).__name__
        raise HttpError(f"no answer from {target.host}: {why}", sent=True) from error
    if len(received) > limit_bytes:
        raise HttpError(f"the answer is longer than {limit_bytes} bytes", sent=True)
    if line.late or response.length:
        raise HttpError(f"the answer of {target.host} broke off", sent=True)
    return Answer(response.status, dict(response.getheaders()), received)


def _left_s(deadline_s: float) -> float:
    return max(0.01, deadline_s - time.monotonic())
