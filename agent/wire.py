"""The messages between an agent and the control plane: the one module of the agent that both sides import.

Rules that let old and new sides meet: a reader ignores fields that it does not know, a writer never
changes the meaning of a field, every field but those that name the sender may be null or absent.
All times are RFC 3339 in UTC, all sizes bytes, all durations seconds, snake case throughout.
Standard library only, and the modules whose names begin with wire_.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from agent.wire_checkpoints import CheckpointAnswer as CheckpointAnswer
from agent.wire_checkpoints import CheckpointPost as CheckpointPost
from agent.wire_checkpoints import RestoreAnswer as RestoreAnswer
from agent.wire_checkpoints import RestorePost as RestorePost
from agent.wire_credentials import ACCESS_TOKEN_LIFE_S as ACCESS_TOKEN_LIFE_S
from agent.wire_credentials import AgentSettings as AgentSettings
from agent.wire_credentials import Credentials as Credentials
from agent.wire_credentials import TokenPost as TokenPost
from agent.wire_fields import WireError as WireError
from agent.wire_fields import counts, number, text
from agent.wire_fields import items as items
from agent.wire_fields import whole as whole
from agent.wire_objects import ArtifactsPost as ArtifactsPost
from agent.wire_objects import GivenFile as GivenFile
from agent.wire_objects import Keep as Keep
from agent.wire_objects import KeptFile as KeptFile
from agent.wire_objects import ObjectsAnswer as ObjectsAnswer
from agent.wire_objects import Presigned as Presigned
from agent.wire_objects import PutWish as PutWish
from agent.wire_paths import PATH_CHARS as PATH_CHARS
from agent.wire_paths import check_path as check_path
from agent.wire_paths import glob_matches as glob_matches
from agent.wire_paths import glob_may_lie_below as glob_may_lie_below

ENROLL = "/api/agent/enroll"
TOKEN = "/api/agent/token"
STATUS = "/api/agent/status"
QUEUE = "/api/agent/queue"
WHEEL_INDEX = "/agent/"

TASK_RING = "agent.ring"
"""Name of the one Celery task that an agent registers. Its only argument is a dispatch id: a doorbell."""

RING_STATUS = "status"
"""A doorbell with this in place of a dispatch id: post a status at once. The answer brings the standing
orders, so a cancel or a drain takes effect in milliseconds rather than at the next check interval."""

AUDIENCE = "dormouse-agent"

STATUS_BODY_LIMIT_BYTES = 64 * 1024
LOG_CHUNK_LIMIT_BYTES = 256 * 1024
OUTPUT_TAIL_BYTES = 16 * 1024
"""How much of a late attempt's last output is kept."""
POLL_WAIT_LIMIT_S = 25
REQUESTS_PER_PLAN = 64
"""How many presigned requests one plan call may ask for."""
ARTIFACTS_PER_POST = 64
PIECE_BYTES = 64 << 20
"""A file of a job goes up in objects of this size; only its last is smaller."""

STAND_DOWN = "stand_down"
"""Error code of every answer to an older epoch, attempt or fence: change nothing, stop that work."""

COMMITTED = "committed"
"""Error code of a plan for a snapshot that has been committed: the agent that died after its commit is done."""

ROOT_PLANNED = "root_planned"
"""Error code of a plan that asks for the terms of a snapshot whose root an earlier run of the same agent has planned
and not committed. What it would read now makes another root, and an object is written once: report it as interrupted,
and it is asked for again as a new generation."""

CHECKPOINT_LOST = "checkpoint_lost"
"""Error code where a job had a checkpoint to go on from and the store no longer holds it whole: fail, start nothing."""

KINDS = ("job", "snapshot", "restore", "command")
OUTCOMES = ("succeeded", "failed", "cancelled", "interrupted")
"""interrupted: the worker stopped before the work ended; a job goes back to the queue, attempt + 1."""

ORDERS = ("drain", "stand_down", "cancel", "interrogate", "saved", "end_by")


STORE_AWAY = "store_away"
"""Phase of a job whose files wait for the store. Whatever phase comes next says that it is over."""

WORKER_ENDS = "worker_ends"
"""In the result of interrupted work: true where the worker itself ends, and takes nothing any more."""

NOT_STARTED = "not_started"
"""In the result of an interrupted job: true where its command was never started. Where the worker ends as well, the
attempt does not count."""

DRAINING = "draining"
"""Status of an agent whose session is near its end: it takes no jobs any more and ends those that it has."""

ENDED = "ended"
"""Status of an agent's last post: it ends, nothing runs here any more, and every report has been taken."""


def queue_key(worker_id: str) -> str:
    """The Redis list that is this worker's queue: the same key for the HTTPS transport and for direct Redis."""
    return f"w:{worker_id}:jobs"


def dispatch_path(dispatch_id: str, verb: str) -> str:
    """verb: claim, progress, log or finish; of a job also files, objects and artifacts, restore and checkpoint."""
    return f"/api/agent/dispatch/{dispatch_id}/{verb}"


def snapshot_path(snapshot_id: str, verb: str) -> str:
    """verb: plan, commit or restore-plan."""
    return f"/api/agent/snapshots/{snapshot_id}/{verb}"


def to_json(message: Any) -> dict[str, Any]:
    """A message as JSON, without the fields that are None."""
    return {key: value for key, value in asdict(message).items() if value is not None}


# -- status ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU's reading. util: percent 0-100, or None where the driver does not say."""

    index: int
    name: str = ""
    util: float | None = None
    mem_used_bytes: int | None = None
    mem_total_bytes: int | None = None
    temp_c: float | None = None


@dataclass(frozen=True, kw_only=True)
class StatusPost:
    """What an agent says of itself once per check interval.

    gpu_util is the highest utilisation of any GPU in percent; None means unknown, which is never idle.
    status is the agent's own word (idle, busy, unknown, and ended in its last post); the verdict is the control plane's.
    session_runtime_hours counts from the start of the machine's session, not of the agent's process.
    """

    worker_id: str
    epoch: int
    timestamp: str | None = None
    instance_id: str | None = None
    session_runtime_hours: float | None = None
    max_session_hours: float | None = None
    gpu_util: float | None = None
    status: str | None = None
    gpus: tuple[Gpu, ...] = ()
    cpu_util: float | None = None
    net_bytes_per_s: float | None = None
    disk_free_bytes: int | None = None
    sessions: Mapping[str, int] = field(default_factory=dict)
    jobs: tuple[str, ...] = ()
    health_url: str | None = None

    @classmethod
    def from_json(cls, body: object) -> StatusPost:
        """Read a post; unknown fields are ignored, a field of the wrong type is a WireError that names it."""
        if not isinstance(body, dict):
            raise WireError("a status post is a JSON object")
        return cls(
            worker_id=text(body, "worker_id", required=True) or "",
            epoch=whole(body, "epoch", required=True) or 0,
            timestamp=text(body, "timestamp"),
            instance_id=text(body, "instance_id"),
            session_runtime_hours=number(body, "session_runtime_hours", low=0),
            max_session_hours=number(body, "max_session_hours", low=0),
            gpu_util=number(body, "gpu_util", low=0, high=100),
            status=text(body, "status"),
            gpus=tuple(_gpu(item) for item in items(body, "gpus")),
            cpu_util=number(body, "cpu_util", low=0),
            net_bytes_per_s=number(body, "net_bytes_per_s", low=0),
            disk_free_bytes=whole(body, "disk_free_bytes"),
            sessions=counts(body, "sessions"),
            jobs=tuple(str(item)[:64] for item in items(body, "jobs")),
            health_url=text(body, "health_url"),
        )


@dataclass(frozen=True, kw_only=True)
class Order:
    """A standing order. id: the dispatch for `cancel`, the snapshot for `saved`, otherwise free. It stands until it is no
    longer sent. saved: that snapshot of this worker's workspace is verified; there is nothing to do (agent/dead_man.py).
    end_by: the account's week is used up before the session's limit; id: hours of session runtime, as decimals, at which
    the session must be over. It moves as the account's other sessions come and go."""

    kind: str
    id: str = ""


@dataclass(frozen=True, kw_only=True)
class StatusAnswer:
    """When to post next, in which epoch the control plane believes this worker to be, and what stands ordered."""

    next_in_s: float
    epoch: int
    orders: tuple[Order, ...] = ()

    @classmethod
    def from_json(cls, body: object) -> StatusAnswer:
        if not isinstance(body, dict):
            raise WireError("a status answer is a JSON object")
        orders = tuple(
            Order(kind=str(item.get("kind", "")), id=str(item.get("id", "")))
            for item in items(body, "orders")
            if isinstance(item, dict)
        )
        return cls(
            next_in_s=number(body, "next_in_s", low=0) or 30.0,
            epoch=whole(body, "epoch") or 0,
            orders=orders,
        )


# -- enrolment ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EnrollPost:
    """Trades a one-use token for an identity. name: how people call this worker; empty lets the server choose.

    request_id is made once and kept on disk before the first try: the same token with the same request_id
    is the same enrolment asked again because the answer was lost, and gets credentials for the same worker.
    """

    token: str
    request_id: str = ""
    name: str = ""
    provider: str = ""
    gpus: tuple[Gpu, ...] = ()
    agent_version: str = ""
    python: str = ""
    platform: str = ""
    session_runtime_hours: float | None = None


# -- work -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ClaimPost:
    """Body of a claim. kinds: what this worker takes now; None is everything. A draining worker names the
    kinds that are left; where the dispatch is of another kind the server leaves it unclaimed and answers 409
    `draining`, or hands it over and gets it back as `interrupted`."""

    kinds: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A dispatch that this worker now holds. Every later report carries `fence`.

    The same worker and epoch may claim again (a lost answer, a restarted agent) and gets the same fence.
    work, by kind: job {command | script, env, timeout_s, grace_s, job_id, attempt, workdir, array {index, count},
    files (how many it is given), artifacts (Keep), checkpoint {every_s}, owner (whose leftovers may stay beside it)};
    command {command | script, env, timeout_s, grace_s}; snapshot {snapshot_id};
    restore {snapshot_id, content_id}. Everything but command, script and the snapshot_id may be absent.
    """

    dispatch_id: str
    kind: str
    fence: int
    lease_s: float
    work: Mapping[str, Any]

    @classmethod
    def from_json(cls, body: object) -> Claimed:
        if not isinstance(body, dict):
            raise WireError("a claim's answer is a JSON object")
        kind = text(body, "kind", required=True) or ""
        if kind not in KINDS:
            raise WireError(f"kind {kind!r} is not one of {', '.join(KINDS)}: update the agent")
        work = body.get("work")
        if not isinstance(work, dict):
            raise WireError("work is a JSON object")
        return cls(
            dispatch_id=text(body, "dispatch_id", required=True) or "",
            kind=kind,
            fence=whole(body, "fence", required=True) or 0,
            lease_s=number(body, "lease_s", low=0) or 60.0,
            work=work,
        )


@dataclass(frozen=True, kw_only=True)
class ProgressPost:
    """How far a snapshot or restore is. bytes are logical (uncompressed) unless the name says stored.

    The answer may say {"cancel": true}: stop and finish as cancelled.
    """

    fence: int
    phase: str
    bytes_done: int = 0
    bytes_total: int = 0
    files_done: int = 0
    files_total: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class LogPost:
    """Output of a child process. `data` is base64 of the bytes that start at `offset` of the whole stream.

    The answer {"offset": n} says how many bytes of the stream the server has: the next post starts there.
    Bytes that the server has already are ignored, a post beyond its end adds nothing.
    total: how long the stream is by now. Where that is more than an attempt may keep, the answer may be far ahead of what
    was sent: what lies between is not wanted.
    """

    fence: int
    offset: int
    data: str
    total: int | None = None

    @classmethod
    def of(cls, *, fence: int, offset: int, raw: bytes, total: int | None = None) -> LogPost:
        return cls(fence=fence, offset=offset, data=base64.b64encode(raw).decode("ascii"), total=total)

    @staticmethod
    def raw(data: str) -> bytes:
        try:
            return base64.b64decode(data, validate=True)
        except ValueError as error:  # binascii.Error is one; letters beyond ASCII are another
            raise WireError("data is base64 of the log's bytes") from error


@dataclass(frozen=True, kw_only=True)
class FinishPost:
    """The end of a dispatch. outcome: one of OUTCOMES. reason: one sentence where it did not succeed.

    timed_out_s: its time limit, where that is why it was ended.
    output_tail, output_bytes: the last of what it wrote, and how much that was; only of an attempt that is known to be
    over, whose output is not taken any more. Such a report is answered stand down and kept to be looked at.
    """

    fence: int
    outcome: str
    exit_code: int | None = None
    timed_out_s: float | None = None
    reason: str | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    output_tail: str | None = None
    output_bytes: int | None = None


# -- snapshots ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SnapshotTerms:
    """What an agent needs to know before it takes or restores a snapshot. owner_key: base64 of 32 bytes."""

    snapshot_id: str
    owner_id: str
    owner_key: str
    root_key: str
    parent_root_key: str | None = None
    content_id: str | None = None

    @classmethod
    def from_json(cls, body: object) -> SnapshotTerms:
        if not isinstance(body, dict):
            raise WireError("terms of a snapshot are a JSON object")
        return cls(
            snapshot_id=text(body, "snapshot_id", required=True) or "",
            owner_id=text(body, "owner_id", required=True) or "",
            owner_key=text(body, "owner_key", required=True) or "",
            root_key=text(body, "root_key", required=True) or "",
            parent_root_key=text(body, "parent_root_key"),
            content_id=text(body, "content_id"),
        )

    def owner_key_bytes(self) -> bytes:
        try:
            return base64.b64decode(self.owner_key, validate=True)
        except ValueError as error:  # binascii.Error is one; letters beyond ASCII are another
            raise WireError("owner_key is base64") from error


@dataclass(frozen=True, kw_only=True)
class PlanPost:
    """Asks for presigned requests, at most REQUESTS_PER_PLAN in all. Both empty: asks for the terms only.
    A restore-plan has no puts."""

    fence: int
    put: tuple[PutWish, ...] = ()
    get: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PlanAnswer:
    """The terms, and as many requests as were asked for, in the same order."""

    terms: SnapshotTerms
    put: tuple[Presigned, ...] = ()
    get: tuple[Presigned, ...] = ()

    @classmethod
    def from_json(cls, body: object) -> PlanAnswer:
        if not isinstance(body, dict):
            raise WireError("a plan's answer is a JSON object")
        return cls(
            terms=SnapshotTerms.from_json(body.get("terms")),
            put=tuple(Presigned.from_json(item) for item in items(body, "put")),
            get=tuple(Presigned.from_json(item) for item in items(body, "get")),
        )


@dataclass(frozen=True, kw_only=True)
class CommitPost:
    """A snapshot whose root the store has acknowledged. The same commit may come twice.

    Digests and content_id are hex. stored_bytes went up now; referenced_bytes is the size of every pack that
    the snapshot needs, older ones included. new_objects: what was uploaded, the root last.
    """

    fence: int
    root_key: str
    root_sha256: str
    root_length: int
    content_id: str
    entries: int
    files: int
    logical_bytes: int
    stored_bytes: int
    referenced_bytes: int
    new_packs: int
    new_objects: tuple[PutWish, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0


# -- files of jobs: agent.wire_objects ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FencePost:
    """Asks for something that needs no more words."""

    fence: int


def _gpu(item: object) -> Gpu:
    if not isinstance(item, dict):
        raise WireError("gpus must be a list of objects")
    return Gpu(
        index=whole(item, "index", required=True) or 0,
        name=text(item, "name") or "",
        util=number(item, "util", low=0, high=100),
        mem_used_bytes=whole(item, "mem_used_bytes"),
        mem_total_bytes=whole(item, "mem_total_bytes"),
        temp_c=number(item, "temp_c", low=-100, high=1000),
    )
