"""The one way out of this machine to the control plane: HTTP with time limits, typed errors and a token.

Presigned transfers are the snapshot engine's; everything else goes through here.
"""

from __future__ import annotations

import email.utils
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import requests
from requests.adapters import HTTPAdapter

from agent import __version__, wire
from agent.backoff import Backoff
from agent.redact import redact

log = logging.getLogger("agent.client")

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 20.0


class ApiError(Exception):
    """The control plane did not do what was asked."""


class Unreachable(ApiError):
    """No answer, or one that says "later" (5xx, 429). Asking again is right; not before retry_after_s where it is given."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Moved(Unreachable):
    """A redirect. A secret is never sent on to where an answer points; a person decides."""


class Refused(ApiError):
    """An answer that asking again does not change."""

    def __init__(self, *, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message}{f' ({hint})' if hint else ''} [{status} {code}]")
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint


class StandDown(Refused):
    """409 stand_down: this epoch, attempt or fence is over. Change nothing, stop that work."""


class Tokens(Protocol):
    """Where the access token comes from."""

    def current(self) -> str:
        """A token that should be good; may fetch one first."""

    def renew(self, *, stale: str) -> str:
        """A token other than `stale`, which was refused."""


class _SystemTrust(HTTPAdapter):
    """Trusts what the machine trusts (a company's own authority included), beside requests' own list."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=ssl.create_default_context())

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        return super().proxy_manager_for(*args, **kwargs, ssl_context=ssl.create_default_context())


class BearerToken(requests.auth.AuthBase):
    """Set as `auth`, so that a .netrc of the machine's user never takes the header's place."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Http:
    """Posts JSON to one control plane. Safe to use from several threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"dormouse-agent/{__version__}"
        self._session.headers["Accept"] = "application/json"
        adapter = _SystemTrust(pool_maxsize=16)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        # The environment's proxies and certificates, read once: requests would go through all of it at each request.
        found = self._session.merge_environment_settings(url, {}, None, None, None)
        self._session.proxies, self._session.verify = found["proxies"], found["verify"]
        self._session.trust_env = False

    def close(self) -> None:
        """Give the connections back."""
        self._session.close()

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        token: str | None = None,
        query: Mapping[str, str] | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> dict[str, Any] | None:
        """One request, one answer: the JSON object, or None for "no content".

        Raises Unreachable, StandDown or Refused.
        """
        try:
            response = self._session.post(
                self.url + path,
                json=body,
                params=query,
                auth=BearerToken(token),
                timeout=(min(CONNECT_TIMEOUT_S, read_timeout_s), read_timeout_s),
                allow_redirects=False,
            )
        except (requests.RequestException, OSError) as error:
            raise Unreachable(f"{path}: {redact(_root_cause(error))}") from error
        return _answer(path, response)


class Client:
    """Http with a token: renews it when the control plane says that it has expired, and tries once more."""

    def __init__(self, http: Http, tokens: Tokens) -> None:
        self._http = http
        self._tokens = tokens

    @property
    def url(self) -> str:
        return self._http.url

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        query: Mapping[str, str] | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> dict[str, Any] | None:
        """As Http.post. Any 401 is a token that is over: the secret buys another, or says why not."""
        token = self._tokens.current()
        try:
            return self._http.post(path, body, token=token, query=query, read_timeout_s=read_timeout_s)
        except Refused as error:
            if error.status != 401:
                raise
            log.info("token refused code=%s, renewing", error.code)
        token = self._tokens.renew(stale=token)
        try:
            return self._http.post(path, body, token=token, query=query, read_timeout_s=read_timeout_s)
        except Refused as error:
            if error.status != 401:
                raise
            # Fresh from the same server and refused: its parts disagree for the moment (a gate entry not written yet).
            raise Unreachable(f"{path}: a fresh token was refused: {error}") from error


def post_until_answered(
    client: Client, path: str, body: Mapping[str, Any], *, backoff: Backoff, given_up: Callable[[], bool]
) -> dict[str, Any] | None:
    """Repeat while the control plane is away. `given_up` is asked several times a second.

    Only for requests that may be made twice (all of ours carry a fence or an offset).
    Raises Unreachable once `given_up()`, StandDown, Refused.
    """
    while True:
        try:
            return client.post(path, body)
        except Unreachable as error:
            wait_s = backoff.next_s(retry_after_s=error.retry_after_s)
            log.warning("control plane away, again in %.1f s: %s", wait_s, error)
            until_s = time.monotonic() + wait_s
            while (left_s := until_s - time.monotonic()) > 0 and not given_up():
                time.sleep(min(0.1, left_s))
            if given_up():
                raise


def _answer(path: str, response: requests.Response) -> dict[str, Any] | None:
    status = response.status_code
    if status == 204:
        return None
    body = _json_object(response)
    if 200 <= status < 300:
        if body is None:
            raise Unreachable(
                f"{path}: {status} with an answer that is no JSON object; is this the control plane?"
            )
        return body
    if 300 <= status < 400:
        where = redact(response.headers.get("Location", "nowhere"))
        raise Moved(f"the control plane has moved to {where}: join with that address")
    code, message, hint = (str((body or {}).get(name) or "") for name in ("code", "message", "hint"))
    if status in (408, 429) or status >= 500:
        said = redact(message or str(response.reason))
        raise Unreachable(f"{path}: {said} [{status}]", retry_after_s=_retry_after_s(response))
    if not code:
        # A proxy, a load balancer without its servers, a hotel's login page: whoever says no here, it is not the control plane.
        raise Unreachable(
            f"{path} was answered {status} {response.reason} by something else than the control plane"
        )
    refused = StandDown if status == 409 and code == wire.STAND_DOWN else Refused
    raise refused(
        status=status, code=code, message=redact(message or f"{path} was refused"), hint=redact(hint)
    )


def _json_object(response: requests.Response) -> dict[str, Any] | None:
    try:
        body = response.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _retry_after_s(response: requests.Response) -> float | None:
    value = response.headers.get("Retry-After", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _root_cause(error: BaseException) -> str:
    """The last link of requests' and urllib3's chain says what happened; the first only that something did."""
    cause: BaseException = error
    while (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper
    return f"{type(cause).__name__}: {cause}"
