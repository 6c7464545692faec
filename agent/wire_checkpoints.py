"""The messages about a job's checkpoints. Both sides import them from agent.wire, whose rules they follow."""

from __future__ import annotations

from dataclasses import dataclass

from agent.wire_fields import WireError, text, whole


@dataclass(frozen=True, kw_only=True)
class CheckpointPost:
    """Asks for the next checkpoint of the job whose attempt this is; the answer is CheckpointAnswer.

    request_id: made once for each checkpoint; asked again it is the same one. error: it could not be taken, because.
    number: grows with every checkpoint of an attempt, so that one that is asked for first and arrives last begins nothing.
    """

    fence: int
    request_id: str
    error: str | None = None
    number: int | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointAnswer:
    """Which snapshot to take: its plan and its commit go by that id."""

    snapshot_id: str
    generation: int

    @classmethod
    def from_json(cls, body: object) -> CheckpointAnswer:
        if not isinstance(body, dict):
            raise WireError("the answer about a checkpoint is a JSON object")
        return cls(
            snapshot_id=text(body, "snapshot_id", required=True) or "",
            generation=whole(body, "generation") or 0,
        )


@dataclass(frozen=True, kw_only=True)
class RestorePost:
    """Asks what to restore before the command starts. 503 with Retry-After while that is being checked."""

    fence: int


@dataclass(frozen=True, kw_only=True)
class RestoreAnswer:
    """snapshot_id None: nothing, the job begins at its beginning."""

    snapshot_id: str | None = None
    content_id: str | None = None
    generation: int = 0

    @classmethod
    def from_json(cls, body: object) -> RestoreAnswer:
        if not isinstance(body, dict):
            raise WireError("the answer about a restore is a JSON object")
        return cls(
            snapshot_id=text(body, "snapshot_id"),
            content_id=text(body, "content_id"),
            generation=whole(body, "generation") or 0,
        )
