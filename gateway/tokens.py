"""Agents' access tokens: which worker, in which epoch, is speaking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from agent import wire
from gateway.answers import Refused

ALGORITHM = "HS256"
CLOCK_LEEWAY_S = 5.0
"""The control plane that signs and this process may sit on two machines whose clocks differ a little."""

TOKEN_LIMIT_CHARS = 4096

REMEMBERED_TOKENS = 20_000
"""Verified tokens kept, about 1 KiB each; one more, and all are verified anew as they come."""

_REQUIRED = ("sub", "epoch", "aud", "exp", "iat")
_decoder = jwt.PyJWT(
    {
        "require": list(_REQUIRED),
        "strict_aud": True,
        # Time is checked here, against the caller's clock.
        "verify_exp": False,
        "verify_iat": False,
        "verify_nbf": False,
    }
)


@dataclass(frozen=True, slots=True)
class Claims:
    """Who holds the token. Says nothing of whether the worker is still welcome: that is the gate's."""

    worker_id: str
    epoch: int


class Tokens:
    """Reads tokens that were signed with one of `keys` (key id -> key). Only HS256, only our audience."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = dict(keys)
        # An agent shows the same token for a quarter of an hour; its signature is worth checking once.
        self._verified: dict[str, dict[str, Any]] = {}

    def read(self, authorization: str | None, *, now: float) -> Claims:
        """The claims in an Authorization header. now: seconds since the epoch.

        Raises Refused: 401 token_expired where a new token would do, 401 token_invalid for everything else.
        """
        scheme, _, token = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _invalid("no bearer token in the Authorization header")
        claims = self._verified.get(token)
        if claims is None:
            claims = self._verify(token)
        _check_times(claims, now=now)
        if len(self._verified) >= REMEMBERED_TOKENS:
            self._verified.clear()
        self._verified[token] = claims
        return Claims(worker_id=claims["sub"], epoch=claims["epoch"])

    def _verify(self, token: str) -> dict[str, Any]:
        """The claims of a token that we signed, whatever the time."""
        if len(token) > TOKEN_LIMIT_CHARS:
            raise _invalid(f"the token is longer than {TOKEN_LIMIT_CHARS} characters")
        try:
            key = self._keys.get(jwt.get_unverified_header(token).get("kid", ""))
            if key is None:
                raise _invalid("the token's key id (kid) is not one of ours")
            claims: dict[str, Any] = _decoder.decode(
                token, key, algorithms=[ALGORITHM], audience=wire.AUDIENCE
            )
        except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
            # Not all that PyJWT trips over becomes its own error: bytes that are no text, brackets without end.
            raise _invalid(
                str(error) if isinstance(error, jwt.InvalidTokenError) else "unreadable"
            ) from error
        worker_id, epoch = claims["sub"], claims["epoch"]
        if not worker_id or isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise _invalid("sub must be a worker id and epoch a whole number from 0")
        return claims


def _check_times(claims: dict[str, Any], *, now: float) -> None:
    times = {name: claims.get(name, 0) for name in ("exp", "iat", "nbf")}
    if any(isinstance(at, bool) or not isinstance(at, int | float) for at in times.values()):
        raise _invalid("exp, iat and nbf must be seconds since 1970")
    if not times["exp"] > now - CLOCK_LEEWAY_S:
        raise expired("the token has expired")
    if not max(times["iat"], times["nbf"]) <= now + CLOCK_LEEWAY_S:
        raise _invalid("the token is from the future: the control plane's clocks differ")


def expired(message: str) -> Refused:
    return Refused(401, "token_expired", message, hint=f"ask for a new token at {wire.TOKEN} and try again")


def _invalid(message: str) -> Refused:
    return Refused(
        401,
        "token_invalid",
        message,
        hint=f"send the access token from {wire.TOKEN} as Authorization: Bearer",
    )
