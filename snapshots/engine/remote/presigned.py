"""Over HTTP with presigned requests: what a GPU machine uses. It never sees a bucket's key, and never logs a URL."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import requests
import requests.adapters
import urllib3

from snapshots.engine.limits import MIB
from snapshots.engine.remote.asking import Asker
from snapshots.engine.remote.base import ObjectPlan, Remote
from snapshots.engine.remote.retry import Backoff, Patience
from snapshots.engine.store.base import (
    ObjectExists,
    ObjectMissing,
    SignedRequest,
    StoreBusy,
    StoreRefused,
)

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 60.0
PIECE_BYTES = 1 * MIB
ERROR_BODY_BYTES = 2_000
NEW_URLS_MAX = 3
URLS_KEPT = 4_096

_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,60})</Code>")

T = TypeVar("T")
AskPut = Callable[[Sequence[ObjectPlan]], Sequence[SignedRequest]]
AskGet = Callable[[Sequence[str]], Sequence[SignedRequest]]


class PresignedRemote(Remote):
    """ask_put and ask_get give presigned requests for plans and keys, in the same order; they may raise StoreError.

    session: requests' own; give it an adapter with as many pooled connections as there are streams (new_session does).
    pause(seconds) waits between attempts; what it raises ends them, which is how a caller in a hurry gives up.
    patience: how long a store that is away is waited for; None: seven tries.
    """

    def __init__(
        self,
        ask_put: AskPut,
        ask_get: AskGet,
        *,
        session: requests.Session | None = None,
        pause: Callable[[float], None] = time.sleep,
        patience: Patience | None = None,
    ) -> None:
        self._puts = Asker(ask_put)
        self._gets = Asker(ask_get)
        self._session = session or new_session()
        self._backoff = Backoff(pause, patience=patience)
        self._urls: OrderedDict[str, SignedRequest] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, plan: ObjectPlan, data: bytes) -> None:
        def once(fresh: bool) -> None:
            request = self._puts.get(plan)
            with self._answer(request, plan.key, data=data) as response:
                _check(response, plan.key)

        try:
            self._run(once)
        except ObjectExists:
            if not self._holds(plan):
                raise

    def get(self, key: str, *, offset: int, length: int) -> bytes:
        if length == 0:
            return b""

        def once(fresh: bool) -> bytes:
            request = self._get_request(key, fresh=fresh)
            span = {"Range": f"bytes={offset}-{offset + length - 1}"}
            with self._answer(request, key, headers=span) as response:
                if response.status_code == 416:
                    return b""
                _check(response, key)
                if offset and response.status_code != 206:
                    raise StoreRefused(
                        f"the store answered a range of {key} with status {response.status_code}"
                    )
                return b"".join(_pieces(response, key, at_most=length))

        return self._run(once)

    def _holds(self, plan: ObjectPlan) -> bool:
        """Read back what is there: only the very object that was planned counts as stored."""

        def once(fresh: bool) -> bool:
            request = self._get_request(plan.key, fresh=fresh)
            digest, length = hashlib.sha256(), 0
            with self._answer(request, plan.key) as response:
                _check(response, plan.key)
                for piece in _pieces(response, plan.key, at_most=plan.length + 1):
                    digest.update(piece)
                    length += len(piece)
            return length == plan.length and digest.hexdigest() == plan.sha256

        return self._run(once)

    def _run(self, once: Callable[[bool], T]) -> T:
        """once(fresh): one request; fresh asks for a new URL instead of a kept one."""

        def step(attempt: int) -> T:
            for number in range(NEW_URLS_MAX):
                try:
                    return once(number > 0)
                except _UrlRefused as error:
                    log.info("%s", error)
                    refused = error
            raise StoreRefused(
                f"{refused}, {NEW_URLS_MAX} times: are the clocks right, and the store's keys still valid?"
            )

        return self._backoff.run(step)

    def _get_request(self, key: str, *, fresh: bool) -> SignedRequest:
        """One URL serves all ranges of an object until it is refused."""
        with self._lock:
            known = self._urls.get(key)
        if known is not None and not fresh:
            return known
        request = self._gets.get(key)
        with self._lock:
            self._urls[key] = request
            while len(self._urls) > URLS_KEPT:
                self._urls.popitem(last=False)
        return request

    @contextmanager
    def _answer(
        self,
        request: SignedRequest,
        key: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[requests.Response]:
        """The response's head, its body unread. What the network does becomes StoreBusy, without requests' text: it holds the URL."""
        try:
            response = self._session.request(
                request.method,
                request.url,
                data=data,
                headers={"Accept-Encoding": "identity", **request.headers, **(headers or {})},
                stream=True,  # .content reads in pieces of 10 KB, at ten times the CPU
                timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
                allow_redirects=False,
                auth=_as_signed,
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise StoreBusy(f"the store cannot be reached for {key}: {type(error).__name__}") from None
        with response:
            yield response


class _UrlRefused(Exception):
    """403: expired, or signed with a key that was changed."""


def new_session(*, streams: int = 32) -> requests.Session:
    session = requests.Session()
    adapter = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=streams)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _as_signed(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Without an auth of its own, requests would add an Authorization header from ~/.netrc."""
    return request


def _pieces(response: requests.Response, key: str, *, at_most: int) -> Iterator[bytes]:
    left = at_most
    while left > 0:
        try:
            piece = response.raw.read(min(PIECE_BYTES, left))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise StoreBusy(f"the store broke off within {key}: {type(error).__name__}") from None
        if not piece:
            return
        left -= len(piece)
        yield piece


def _check(response: requests.Response, key: str) -> None:
    """Nothing for a success, else the port's error. The start of a refusal's body is read for its code, never shown whole."""
    status = response.status_code
    if status == 206 or (status == 200 and response.request.method == "GET"):
        return
    text = b"".join(
        _pieces(response, key, at_most=ERROR_BODY_BYTES)
    )  # also frees the connection for the next request
    if status in (200, 201, 204):
        return
    found = _CODE.search(text)
    code = found.group(1).decode() if found else ""
    what = f"the store answered {status}{' ' + code if code else ''} for {key}"
    if status == 404:
        raise ObjectMissing(f"there is no object {key}")
    if status == 412:
        raise ObjectExists(f"{key} exists already; it was not touched")
    if status == 403:
        raise _UrlRefused(what)
    if status in (408, 409, 429) or status >= 500 or code == "RequestTimeout":
        raise StoreBusy(what, retry_after_s=_retry_after_s(response.headers.get("Retry-After", "")))
    raise StoreRefused(what)


def _retry_after_s(header: str) -> float | None:
    """Seconds only: stores do not send dates here."""
    return float(header) if header.isdecimal() and len(header) < 9 else None
