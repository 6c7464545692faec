"""Who this agent is: one enrolment, then a secret that is traded for the next one with every access token."""

from __future__ import annotations

import logging
import platform
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from agent import __version__, wire
from agent.client import Http, Moved, Refused, StandDown, Unreachable
from agent.errors import EnrolmentRefused, Superseded, UsageError
from agent.files import read_json, write_json
from agent.wire import AgentSettings, Credentials

log = logging.getLogger("agent.identity")

IDENTITY_FILE = "identity.json"
REQUEST_FILE = "enrolment.json"
RENEW_AT = 2 / 3
"""Part of an access token's life after which the next one is fetched."""
RENEW_AGAIN_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What the state directory knows. previous_secret: what was traded last, good until the newer one has been used."""

    url: str
    worker_id: str
    epoch: int
    secret: str = field(repr=False)
    previous_secret: str = field(default="", repr=False)
    instance_id: str | None = None


def load(state_dir: Path) -> Identity | None:
    """The identity on disk, or None before the first start. UsageError where the file is not one."""
    path = state_dir / IDENTITY_FILE
    body = read_json(path)
    if body is None:
        return None
    try:
        return Identity(**body)
    except TypeError as error:
        raise UsageError(
            f"{path} is not an identity: {error}", hint="remove it and join again with a fresh token"
        ) from error


def check_same_place(identity: Identity, *, url: str | None, state_dir: Path) -> None:
    """A state directory belongs to one worker of one control plane."""
    if url is not None and url != identity.url:
        raise UsageError(
            f"{state_dir} belongs to worker {identity.worker_id} of {identity.url}, not to {url}",
            hint=f"use another --state-dir, or remove {state_dir / IDENTITY_FILE} to leave {identity.url}",
        )


def enrol(
    *,
    http: Http,
    token: str,
    name: str,
    provider: str,
    state_dir: Path,
    gpus: Sequence[wire.Gpu],
    session_runtime_hours: float,
) -> tuple[Identity, Credentials]:
    """One try. The identity is on disk when this returns.

    Raises Unreachable (try again: it is the same enrolment), EnrolmentRefused, Superseded.
    A redirect is final here, where a person is watching; a running agent waits for its control plane to return.
    """
    post = wire.EnrollPost(
        token=token,
        request_id=_request_id(state_dir, token=token),
        name=name,
        provider=provider,
        gpus=tuple(gpus),
        agent_version=__version__,
        python=platform.python_version(),
        platform=platform.platform(terse=True),
        session_runtime_hours=session_runtime_hours,
    )
    try:
        credentials = _credentials(http.post(wire.ENROLL, wire.to_json(post)))
    except Moved as error:
        raise EnrolmentRefused(str(error)) from error
    except StandDown as error:
        raise Superseded(
            f"the control plane refused this worker: {error.message}", hint=error.hint
        ) from error
    except Refused as error:
        raise EnrolmentRefused(
            f"the control plane did not take this token: {error.message}",
            hint=error.hint or "tokens are used once; make a new one and join with it",
        ) from error
    identity = Identity(
        url=http.url,
        worker_id=credentials.worker_id,
        epoch=credentials.epoch,
        secret=credentials.secret,
        instance_id=credentials.instance_id,
    )
    write_json(state_dir / IDENTITY_FILE, asdict(identity))
    (state_dir / REQUEST_FILE).unlink(missing_ok=True)
    log.info("worker=%s epoch=%d enrolled url=%s", identity.worker_id, identity.epoch, identity.url)
    return identity, credentials


class Keyring:
    """The access token in force, and the secret that buys the next one. Safe to use from several threads."""

    def __init__(
        self,
        *,
        http: Http,
        identity: Identity,
        state_dir: Path,
        on_settings: Callable[[AgentSettings], None],
        on_refused: Callable[[EnrolmentRefused | Superseded], None],
    ) -> None:
        self._http = http
        self._identity = identity
        self._path = state_dir / IDENTITY_FILE
        self._on_settings = on_settings
        self._on_refused = on_refused
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = 0.0

    @property
    def identity(self) -> Identity:
        return self._identity

    def accept(self, credentials: Credentials) -> None:
        """The first credentials, straight from the enrolment (already on disk)."""
        with self._lock:
            self._use(credentials)

    def current(self) -> str:
        """The token in force, renewed in good time. A renewal that fails while the token lives is tried again later."""
        with self._lock:
            if self._token and time.monotonic() < self._renew_at:
                return self._token
            try:
                return self._renew()
            except Unreachable as error:
                if not self._token:
                    raise
                log.warning("worker=%s token not renewed yet: %s", self._identity.worker_id, error)
                self._renew_at = time.monotonic() + RENEW_AGAIN_S
                return self._token

    def renew(self, *, stale: str) -> str:
        """Raises Unreachable, or Refused after `on_refused` was told."""
        with self._lock:
            if self._token != stale:
                return self._token
            self._token = ""
            return self._renew()

    def _renew(self) -> str:
        try:
            credentials = self._trade(self._identity.secret)
        except Refused as error:
            previous = self._identity.previous_secret
            if isinstance(error, StandDown) or not previous:
                raise self._told(error) from error
            # A control plane that was set back to yesterday's backup knows the one before.
            log.warning(
                "worker=%s secret refused code=%s, trying the one before",
                self._identity.worker_id,
                error.code,
            )
            try:
                credentials = self._trade(previous)
            except Refused as again:
                raise self._told(again) from again
        # On disk before it is used: whatever happens next, one of the two secrets in the file is good.
        following = replace(self._identity, secret=credentials.secret, previous_secret=self._identity.secret)
        try:
            write_json(self._path, asdict(following))
        except OSError as error:
            # A full disk. The secret that was sent stays good until the next one is used: it is sent again next time.
            log.error("worker=%s next secret not kept: %s", self._identity.worker_id, error)
        else:
            self._identity = following
        self._use(credentials)
        return self._token

    def _trade(self, secret: str) -> Credentials:
        post = wire.TokenPost(worker_id=self._identity.worker_id, secret=secret)
        credentials = _credentials(self._http.post(wire.TOKEN, wire.to_json(post)))
        if credentials.worker_id != self._identity.worker_id or credentials.epoch != self._identity.epoch:
            raise StandDown(
                status=409,
                code=wire.STAND_DOWN,
                message=f"this box is epoch {self._identity.epoch} of worker {self._identity.worker_id}, the control plane"
                f" is at epoch {credentials.epoch} of {credentials.worker_id}",
            )
        return credentials

    def _use(self, credentials: Credentials) -> None:
        self._token = credentials.access_token
        self._renew_at = time.monotonic() + RENEW_AT * credentials.access_expires_in_s
        log.info(
            "worker=%s token renewed life_s=%d", self._identity.worker_id, credentials.access_expires_in_s
        )
        self._on_settings(credentials.settings)

    def _told(self, error: Refused) -> Refused:
        if isinstance(error, StandDown):
            self._on_refused(Superseded(error.message, hint=error.hint))
        else:
            self._on_refused(
                EnrolmentRefused(
                    f"the control plane no longer takes worker {self._identity.worker_id}: {error.message}",
                    hint=f"remove {self._path} and join again with a fresh token",
                )
            )
        return error


def _credentials(body: object) -> Credentials:
    try:
        return Credentials.from_json(body)
    except wire.WireError as error:
        # A proxy's login page or a half-written answer: not a refusal.
        raise Unreachable(f"the answer is not credentials: {error}") from error


def _request_id(state_dir: Path, *, token: str) -> str:
    """The same for every try with the same token, also after a restart; never sent with another one."""
    path = state_dir / REQUEST_FILE
    kept = read_json(path)
    if kept is not None and kept.get("token") == token and isinstance(kept.get("request_id"), str):
        return str(kept["request_id"])
    request_id = secrets.token_hex(16)
    write_json(path, {"token": token, "request_id": request_id})
    return request_id
