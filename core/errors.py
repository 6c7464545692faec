"""Domain errors: what went wrong, why, and what to do. The API answers them as {code, message, hint}."""

from __future__ import annotations

from typing import Any


class DomainError(Exception):
    """Something that was asked for and refused. status: the HTTP status of the answer."""

    status = 409
    code = "refused"

    def __init__(self, message: str, *, hint: str = "", code: str | None = None, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.code
        self.facts = facts

    def as_json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "hint": self.hint, **self.facts}


class Invalid(DomainError):
    """The request itself is wrong; the same request will be refused again."""

    status = 400
    code = "invalid"


class NotFound(DomainError):
    """It does not exist, or belongs to somebody else: the answer is the same."""

    status = 404
    code = "not_found"


class Forbidden(DomainError):
    """Known, allowed to look, not allowed to do this."""

    status = 403
    code = "forbidden"


class TransitionRefused(DomainError):
    """A state change that the row's present state does not allow, or that came from a stale copy. Nothing changed."""

    code = "transition_refused"


class StandDown(DomainError):
    """A report from an older epoch, attempt or fence. Nothing changed; the sender stops that work."""

    code = "stand_down"


class TooSoon(DomainError):
    """Asked again before it may be. retry_after_s: when it may."""

    status = 429
    code = "too_soon"

    def __init__(self, message: str, *, retry_after_s: float, hint: str = "", **facts: Any) -> None:
        super().__init__(message, hint=hint, retry_after_s=round(retry_after_s, 1), **facts)
        self.retry_after_s = retry_after_s


class Busy(DomainError):
    """Somebody else, outside, asks us to come back later. Nothing was done. Chains put the step off."""

    status = 503
    code = "busy"

    def __init__(self, message: str, *, retry_after_s: float = 5, hint: str = "", **facts: Any) -> None:
        super().__init__(message, hint=hint, **facts)
        self.retry_after_s = retry_after_s
