"""Kaggle's HTTP API, the part that is needed to run a notebook: push, status, output, quota.

The calls and their shapes are those of the official client (`kaggle` 2.2.4 on `kagglesdk` 0.1.37), which is generated
from Kaggle's own definitions: every call is a POST of JSON to `<base>/<service>/<method>`. What it says of itself is
not documented beyond that client; `tests/simulators/kaggle.py` answers the same calls and is held to the real client.
Errors of a push come in the answer's `error`, with status 200.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from core.errors import Busy, DomainError
from core.http import Http, HttpError

KERNELS = "kernels.KernelsApiService"
OAUTH = "security.OAuthService"
TEXT_LIMIT = 300
"""Characters of the provider's own words that are passed on."""

BUSY = frozenset({408, 429, 500, 502, 503, 504})
ABSENT = frozenset({403, 404})
"""What is answered for a notebook that is not there: the official client takes 403 for a wrong name too. The same
is said where a right is missing for a moment, so one such answer proves nothing: whoever asks must be patient."""


class KaggleRefused(DomainError):
    """Kaggle says no; asking again changes nothing."""

    status = 409
    code = "kaggle_refused"


class KaggleUnauthorized(KaggleRefused):
    """Kaggle does not take the account's token."""

    code = "kaggle_unauthorized"


class KaggleUnknown(DomainError):
    """No usable answer came, and what was asked for may have been done all the same. Look before asking again."""

    status = 503
    code = "kaggle_unknown"

    def __init__(self, message: str, *, retry_after_s: float = 60) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RunStatus(StrEnum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    ERROR = "ERROR"
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    CANCEL_ACKNOWLEDGED = "CANCEL_ACKNOWLEDGED"
    NEW_SCRIPT = "NEW_SCRIPT"


@dataclass(frozen=True, kw_only=True)
class Push:
    """A private notebook that is saved and run. title must make slug again when it is slugified."""

    slug: str
    title: str
    notebook: Mapping[str, Any]
    accelerator: str
    session_timeout_s: int


@dataclass(frozen=True, kw_only=True)
class Pushed:
    version: int
    url: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """How the latest version of a notebook does. failure: Kaggle's own words, or empty."""

    status: RunStatus
    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class Quota:
    """GPU time of this week in seconds; reserved: for sessions that run. None: Kaggle did not say."""

    used_s: float | None
    reserved_s: float | None
    total_s: float | None
    refresh_at: datetime | None


class Kaggle:
    """One account at Kaggle.

    credentials: {"api_token": …}, or the older {"username": …, "key": …}. Every method raises KaggleRefused for a no,
    Busy where nothing was done and asking later is right, KaggleUnknown where it may have been done.
    """

    def __init__(self, *, base_url: str, credentials: Mapping[str, str], http: Http | None = None) -> None:
        self._http = http or Http(connect_timeout_s=5, read_timeout_s=15, tries=2)
        self._base_url = base_url.rstrip("/")
        self._token = credentials.get("api_token", "").strip()
        self._name = credentials.get("username", "").strip()
        self._key = credentials.get("key", "").strip()
        if not self._token and not (self._name and self._key):
            raise KaggleRefused(
                "the account's credentials hold no Kaggle token",
                hint='set them to {"api_token": "…"} (Kaggle: Settings, then API, then Generate new token)',
            )

    def owner(self) -> str:
        """The name under which the account's notebooks stand."""
        if self._token and not self._name:
            said = self._call(OAUTH, "IntrospectToken", {"token": self._token})
            if not said.get("active") or not said.get("username"):
                raise KaggleUnauthorized(
                    "Kaggle does not know the account's token any more", hint="make a new one and store it"
                )
            self._name = str(said["username"])
        return self._name

    def version(self, owner: str, slug: str) -> int | None:
        """The newest version of a notebook; None where Kaggle says that there is none, or that we may not see it."""
        try:
            said = self._call(KERNELS, "GetKernel", {"userName": owner, "kernelSlug": slug})
        except _Absent:
            return None
        return _whole(_object(said.get("metadata")).get("currentVersionNumber")) or 0

    def push(self, owner: str, push: Push) -> Pushed:
        """Save the notebook as a new version and run it. Never repeated by itself: each push is a session."""
        body = {
            "slug": f"{owner}/{push.slug}",
            "newTitle": push.title,
            "text": json.dumps(_as_kaggle_reads_it(push.notebook)),
            "language": "python",
            "kernelType": "notebook",
            "isPrivate": True,
            "enableGpu": True,
            "enableTpu": False,
            "enableInternet": True,
            "machineShape": push.accelerator,
            "sessionTimeoutSeconds": push.session_timeout_s,
        }
        said = self._call(KERNELS, "SaveKernel", body, repeat=False)
        if said.get("error"):
            raise KaggleRefused(f"Kaggle did not run the notebook: {_words(said['error'])}")
        return Pushed(version=_whole(said.get("versionNumber")) or 0, url=_words(said.get("url")))

    def run(self, owner: str, slug: str) -> Run | None:
        """How the newest version does; None where Kaggle says that there is none, or that we may not see it."""
        body = {"userName": owner, "kernelSlug": slug}
        try:
            said = self._call(KERNELS, "GetKernelSessionStatus", body)
        except _Absent:
            return None
        # The zero value of an enumeration may be left out of the JSON.
        word = str(said.get("status") or RunStatus.QUEUED).upper()
        try:
            status = RunStatus(word)
        except ValueError as error:
            raise Busy(f"Kaggle calls the run {_words(word)!r}, which is not known here") from error
        return Run(status=status, failure=_words(said.get("failureMessage")))

    def output(self, owner: str, slug: str) -> str:
        """What the newest version has printed, as Kaggle keeps it; empty where there is nothing."""
        body = {"userName": owner, "kernelSlug": slug, "pageSize": 1}
        try:
            log = self._call(KERNELS, "ListKernelSessionOutput", body).get("log")
        except _Absent:
            return ""
        return _printed(str(log or ""))

    def quota(self) -> Quota:
        """The account's GPU week, as Kaggle counts it."""
        said = self._call(KERNELS, "GetAcceleratorQuotaStatistics", {})
        gpu = _object(said.get("gpuQuota"))
        return Quota(
            used_s=_seconds(gpu.get("timeUsed")),
            reserved_s=_seconds(gpu.get("timeReserved")),
            total_s=_seconds(gpu.get("totalTimeAllowed")),
            refresh_at=_time(said.get("quotaRefreshTime")),
        )

    def _call(
        self, service: str, method: str, body: Mapping[str, Any], *, repeat: bool = True
    ) -> dict[str, Any]:
        url = f"{self._base_url}/{service}/{method}"
        try:
            answer = self._http.call("POST", url, json=dict(body), headers=self._headers(), repeat=repeat)
            said = _object(answer.json()) if answer.body else {}
        except HttpError as error:
            if not error.sent:
                raise Busy(f"Kaggle cannot be reached: {error}", retry_after_s=60) from error
            raise KaggleUnknown(f"Kaggle gave no usable answer: {error}") from error
        # The official client takes a `code` of 400 or more in any answer for an error.
        code = max(answer.status, _whole(said.get("code")) or 0)
        if code < 400:
            return said
        message = _words(said.get("message")) or f"{method} was answered {code}"
        if code == 401:
            raise KaggleUnauthorized(
                f"Kaggle does not take the account's token: {message}", hint="make a new one and store it"
            )
        if code in ABSENT:
            raise _Absent(f"Kaggle refused: {message}")
        if code == 429:
            raise Busy(f"Kaggle asks us to wait: {message}", retry_after_s=answer.retry_after_s or 60)
        if code in BUSY:
            raise KaggleUnknown(f"Kaggle is in trouble: {message}", retry_after_s=answer.retry_after_s or 60)
        raise KaggleRefused(f"Kaggle refused: {message}")

    def _headers(self) -> dict[str, str]:
        if self._token:
            return {"Authorization": f"Bearer {self._token}"}
        return {"Authorization": _basic(self._name, self._key)}


class _Absent(KaggleRefused):
    """No such notebook, or no right to see it."""


def _as_kaggle_reads_it(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """As the official client sends it: each cell's source is one text, and there are no outputs."""
    cells = [dict(cell) for cell in notebook["cells"]]
    for cell in cells:
        if isinstance(cell["source"], list):
            cell["source"] = "".join(cell["source"])
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    return {**notebook, "cells": cells}


def _basic(name: str, key: str) -> str:
    return "Basic " + b64encode(f"{name}:{key}".encode()).decode("ascii")


def _printed(log: str) -> str:
    """Kaggle keeps a log as a JSON list of {stream_name, time, data}; anything else is taken as it is."""
    try:
        entries = json.loads(log)
    except ValueError:
        return log
    if not isinstance(entries, list):
        return log
    return "".join(str(entry.get("data", "")) for entry in entries if isinstance(entry, dict))


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _words(value: object) -> str:
    return str(value or "")[:TEXT_LIMIT]


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _seconds(value: object) -> float | None:
    """A duration as protobuf's JSON writes it: "5400s", "151.500s"."""
    if not isinstance(value, str) or not value.endswith("s"):
        return None
    try:
        seconds = float(value[:-1])
    except ValueError:
        return None
    return seconds if 0 <= seconds < 1e9 else None


def _time(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
