"""How an agent's process ends, and with which exit code."""

from __future__ import annotations

from typing import Final

ENDED_AS_ASKED: Final = 0
WRONG_USAGE: Final = 2
STOOD_DOWN: Final = 3
CANNOT_ENROL: Final = 4
NOT_ENROLLED_IN_TIME: Final = 5


class AgentError(Exception):
    """The agent cannot go on. The text says what and why, `hint` what to do, `exit_code` how the process ends."""

    exit_code = WRONG_USAGE

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.args[0]} ({self.hint})" if self.hint else str(self.args[0])


class UsageError(AgentError):
    """Options, environment or state directory do not fit together."""


class EnrolmentRefused(AgentError):
    """The control plane does not take this token, or no longer takes this identity."""

    exit_code = CANNOT_ENROL


class NotEnrolledInTime(AgentError):
    """The control plane could not be reached, or did not answer, for as long as it was to be waited for."""

    exit_code = NOT_ENROLLED_IN_TIME


class Superseded(AgentError):
    """A newer box has taken over, or the worker was revoked: change nothing more."""

    exit_code = STOOD_DOWN


class Interrupted(BaseException):
    """A signal asked the process to end while the main thread waited for the network. Never an ordinary error."""
