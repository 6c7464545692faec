"""The public API, as any client would use it."""

from __future__ import annotations

from typing import Any

import requests

TIMEOUT_S = 30


class Refusal(Exception):
    """The API refused; the text is its own message and hint."""


class Api:
    """Calls with a person's token. Every answer is JSON."""

    def __init__(self, url: str, *, token: str) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str, **params: Any) -> Any:
        return self._call("GET", path, params=params)

    def post(self, path: str, **body: Any) -> Any:
        return self._call("POST", path, json=body)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        answer = self._session.request(method, self._url + path, timeout=TIMEOUT_S, **options)
        if answer.status_code >= 400:
            try:
                body = answer.json()
                text = f"{body['message']} ({body['code']}). {body['hint']}"
            except (ValueError, KeyError):
                text = answer.text[:500]
            raise Refusal(f"{method} {path}: {answer.status_code}: {text}")
        return answer.json() if answer.content else None
