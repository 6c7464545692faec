"""Outgoing HTTP of the control plane: the only module that imports requests.

Every call has timeouts; a call is repeated only where that is safe (or where the caller says that it is), at most
`tries` times, waiting as long as Retry-After says, up to a cap. Nothing secret is logged: query strings, headers and
bodies stay out of the log, and a URL is cut at its path.
"""

from __future__ import annotations

import json as jsonlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from django.utils import timezone

log = logging.getLogger(__name__)

SAFE_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
BUSY_STATUSES = frozenset({429, 502, 503, 504})


class HttpError(Exception):
    """No answer, or none that can be used. sent: whether the request may have reached the other side."""

    def __init__(self, message: str, *, sent: bool, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.sent = sent
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read whole. Any status: what a status means is the caller's business."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; HttpError where it is not."""
        try:
            return jsonlib.loads(self.body)
        except ValueError as error:
            raise HttpError(f"the answer ({self.status}) is not JSON", sent=True) from error

    @property
    def retry_after_s(self) -> float | None:
        return retry_after_s(self.headers.get("Retry-After"))


@dataclass(frozen=True, kw_only=True)
class Http:
    """How to call one service.

    tries: calls in all, repeated on no connection and on 429/502/503/504, for safe methods only.
    wait_cap_s: the longest pause before a repetition; a Retry-After beyond it ends the tries at once.
    body_limit_bytes: a longer answer is an error, not memory.
    """

    base_url: str = ""
    headers: Mapping[str, str] | None = None
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    tries: int = 3
    wait_cap_s: float = 5.0
    body_limit_bytes: int = 16 * 1024 * 1024
    pause: Callable[[float], object] = threading.Event().wait

    def call(
        self,
        method: str,
        url: str,
        *,
        json: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        repeat: bool | None = None,
    ) -> Answer:
        """One request. repeat: override what the method says about whether it may be sent again.

        Redirects are not followed. Raises HttpError where no answer came.
        """
        may_repeat = method.upper() in SAFE_METHODS if repeat is None else repeat
        for attempt in range(1, self.tries + 1):
            last = attempt == self.tries or not may_repeat
            try:
                answer = self._once(method, self.base_url + url, json, data, headers)
            except HttpError as error:
                if last:
                    raise
                log.info("http %s %s: %s; again", method, _path(url), error)
                wait_s: float | None = None
            else:
                wait_s = answer.retry_after_s
                if answer.status not in BUSY_STATUSES or last or (wait_s or 0) > self.wait_cap_s:
                    return answer
            self.pause(min(wait_s if wait_s is not None else 0.2 * 2**attempt, self.wait_cap_s))
        raise AssertionError("unreachable: the last try returns or raises")

    def _once(
        self, method: str, url: str, json: Any, data: bytes | None, headers: Mapping[str, str] | None
    ) -> Answer:
        started = time.monotonic()
        try:
            with requests.request(
                method,
                url,
                json=json,
                data=data,
                headers={**(self.headers or {}), **(headers or {})},
                timeout=(self.connect_timeout_s, self.read_timeout_s),
                allow_redirects=False,
                stream=True,
            ) as response:
                body = response.raw.read(self.body_limit_bytes + 1, decode_content=True)
                if len(body) > self.body_limit_bytes:
                    raise HttpError(f"the answer is longer than {self.body_limit_bytes} bytes", sent=True)
                answer = Answer(response.status_code, dict(response.headers), body)
        except requests.ConnectionError as error:
            raise HttpError(f"no connection to {_host(url)}", sent=not _never_sent(error)) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            # urllib3's own errors come from reading the body: requests words only what its own readers meet.
            raise HttpError(f"no answer from {_host(url)}: {type(error).__name__}", sent=True) from error
        log.info(
            "http %s %s %d %.0f ms", method, _path(url), answer.status, 1000 * (time.monotonic() - started)
        )
        return answer


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date; None where it says neither."""
    if not header:
        return None
    try:
        seconds = float(header)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - timezone.now()).total_seconds())
    except (TypeError, ValueError):
        return None


def _never_sent(error: requests.ConnectionError) -> bool:
    """True where the connection itself failed, so that the other side cannot have seen the request."""
    return isinstance(error, requests.exceptions.ConnectTimeout) or "NewConnectionError" in repr(error)


def _host(url: str) -> str:
    return urlsplit(url).hostname or "?"


def _path(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname or ''}{parts.path}"
