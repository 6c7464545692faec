"""Calls to vast.ai's HTTP API: the key, the pace, and what an answer means.

Its statuses mean little (a wrong key is a 404, an offer that is gone a 400, a failure may be a 200), so that errors are
told by the words in `error` and `msg`. Nothing is repeated here: the caller knows what may be asked again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from core.http import Answer, Http, HttpError
from hibernation.providers.base import (
    ListingIncomplete,
    OfferGone,
    ProviderBusy,
    ProviderError,
    ProviderRefused,
)
from hibernation.providers.vast_pace import HOLD_S, Pace

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
SAID_LIMIT = 300

_KEY = ("auth_error", "invalid user key", "requires login", "two factor", "session expired", "log in again")
_CREDIT = ("insufficient_credit", "lacks credit", "spend_rate_limit", "missing_billing")
_GONE = ("no_such_instance", "not_found")
_TOO_OFTEN = ("too frequent", "rate_limit_exceeded", "too many requests")


class BoxNotThere(ProviderError):
    """vast.ai has no such instance."""

    status = 404
    code = "box_not_there"


class Said:
    """One answer, read as far as it can be. body: {} where it is not a JSON object; is_json says which."""

    def __init__(self, answer: Answer, *, api_key: str = "") -> None:
        self.status = answer.status
        self.headers = {name.casefold(): value for name, value in answer.headers.items()}
        self.retry_after_s = answer.retry_after_s
        try:
            body = json.loads(answer.body)
        except ValueError:
            body = None
        self.is_json = isinstance(body, dict)
        self.body: dict[str, Any] = body if isinstance(body, dict) else {}
        plain = answer.body.decode("utf-8", "replace") if not self.is_json else ""
        words = [str(self.body.get(name) or "") for name in ("error", "msg", "message", "detail")]
        text = " ".join(" ".join([*words, plain]).split())
        self.text = (text.replace(api_key, "…") if api_key else text)[:SAID_LIMIT]

    @property
    def failed(self) -> bool:
        return self.status >= 400 or self.body.get("success") is False

    @property
    def is_understood(self) -> bool:
        """Whether the words of a failure are among those that are known to mean that nothing was done."""
        return self.says(*_KEY, *_CREDIT, *_TOO_OFTEN, "no_such_ask", "not your own")

    def says(self, *words: str) -> bool:
        return any(word in self.text.casefold() for word in words)


class VastApi:
    """One key at one address. Safe to use from several processes."""

    def __init__(self, url: str, api_key: str, *, pace: Pace) -> None:
        self.url = url
        self.pace = pace
        self._key = api_key
        self._http = Http(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {api_key}"},
            connect_timeout_s=CONNECT_TIMEOUT_S,
            read_timeout_s=READ_TIMEOUT_S,
            tries=1,
        )

    def send(self, endpoint: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> Said:
        """One request in its turn, and its answer whatever it is. Raises ProviderBusy (too soon, nothing was sent) and
        HttpError (no answer)."""
        self.pace.take(endpoint)
        answer = self._http.call(method, path, json=body, repeat=False)
        said = Said(answer, api_key=self._key)
        if _too_often(said):
            self.pace.hold(endpoint, said.retry_after_s or HOLD_S.get(endpoint, 2.0))
        return said

    def ask(
        self, endpoint: str, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """For what may be asked again: the object that was answered. Raises what the answer means, and ProviderBusy where
        there was none or it cannot be read."""
        try:
            said = self.send(endpoint, method, path, body)
        except HttpError as error:
            raise out_of_reach(error) from error
        wrong = meaning(said, endpoint)
        if wrong is not None:
            raise wrong
        if not said.is_json:
            raise ProviderBusy(
                f"vast.ai's answer to {endpoint} cannot be read ({said.status})", retry_after_s=5
            )
        return said.body


def out_of_reach(error: HttpError) -> ProviderBusy:
    return ProviderBusy(
        f"vast.ai is out of reach: {error}",
        hint="it is asked again by itself; see status.vast.ai if it lasts",
        retry_after_s=error.retry_after_s or 10,
    )


def meaning(said: Said, endpoint: str) -> ProviderError | None:
    """What an answer says went wrong; None where nothing did. The order matters: a 404 may be about the key."""
    if _too_often(said):
        return _later(said, endpoint)
    if not said.failed:
        return None
    if said.says(*_KEY) or said.status == 401:
        return ProviderRefused(
            f"vast.ai does not take the account's key: {said.text or said.status}",
            hint="enter an API key with the permissions of docs/providers.md",
        )
    if said.says("no_such_ask", "not your own"):
        return OfferGone(f"vast.ai: {said.text}")
    if said.says(*_CREDIT):
        return ProviderRefused(
            f"the vast.ai account lacks credit: {said.text}", hint="add credit at vast.ai, then wake it again"
        )
    if said.says(*_GONE):
        return BoxNotThere(f"vast.ai: {said.text}")
    if said.status == 410 or said.says("deprecated_endpoint"):
        return ListingIncomplete(
            f"vast.ai has closed this address: {said.text}",
            hint="Dormouse must be updated; nothing is concluded from it",
            retry_after_s=60,
        )
    if said.status >= 500:
        return ProviderBusy(f"vast.ai is in trouble ({said.status}): {said.text}", retry_after_s=10)
    return ProviderRefused(
        f"vast.ai refuses: {said.text or said.status}",
        hint="see the message; the same request is refused again",
    )


def _too_often(said: Said) -> bool:
    return said.status == 429 or (said.failed and said.says(*_TOO_OFTEN))


def _later(said: Said, endpoint: str) -> ProviderError:
    if said.says("search_quota_exceeded"):
        until = ""
        reset = said.headers.get("x-ratelimit-reset", "")
        if reset.isdigit():
            until = f" until {datetime.fromtimestamp(int(reset), UTC):%Y-%m-%d %H:%M} UTC"
        return ProviderRefused(
            f"vast.ai answers no more searches of this account{until or ' today'}",
            hint="the daily quota begins anew at midnight UTC",
        )
    wait_s = said.retry_after_s or HOLD_S.get(endpoint, 2.0)
    return ProviderBusy(f"vast.ai: too many requests ({said.text or 429})", retry_after_s=wait_s)
