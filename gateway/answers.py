"""What the gateway says for itself: JSON, refusals as {"code", "message", "hint"}."""

from __future__ import annotations

import json
import math
from typing import Any

from aiohttp import web

SERVER_HEADER = "dormouse"
"""Names the product and no version: nobody outside needs to know which library parses their bytes."""


class Refused(Exception):
    """A request that is answered with an error: what, why, and what the client can do.

    retry_after_s: when it is worth another try, where time alone can help. close: the rest of the request is
    not worth reading, so the connection ends with the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        hint: str,
        retry_after_s: float | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s
        self.close = close

    def response(self) -> web.Response:
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        body = {"code": self.code, "message": self.message, "hint": self.hint}
        response = json_answer(body, status=self.status, headers=headers)
        if self.close:
            response.force_close()
        return response


def json_answer(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return raw_answer(json.dumps(body).encode(), status=status, headers=headers)


def raw_answer(body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """`body` is JSON already."""
    return web.Response(
        status=status,
        body=body,
        headers={
            "Content-Type": "application/json",
            "Cache-Control": "no-store",
            "Server": SERVER_HEADER,
            **(headers or {}),
        },
    )


def nothing() -> web.Response:
    return web.Response(status=204, headers={"Server": SERVER_HEADER})


def bad_request(message: str, *, hint: str, status: int = 400, code: str = "bad_request") -> Refused:
    return Refused(status, code, message, hint=hint)
