"""Edge tables of the pool: workers, jobs, dispatches, sessions that it starts."""

from enum import StrEnum

from core.states import Edge, Limit, StateTable


class WorkerState(StrEnum):
    OFFLINE = "offline"
    ONLINE = "online"
    DRAINING = "draining"
    SUSPECT = "suspect"
    LOST = "lost"
    REVOKED = "revoked"


W = WorkerState

WORKER = StateTable(
    "worker",
    states={
        W.OFFLINE: "enrolled, with no session at present",
        W.ONLINE: "it posts its status and takes work",
        W.DRAINING: "it finishes what it has and takes no new jobs",
        W.SUSPECT: "a status post is overdue",
        W.LOST: "two posts in a row are missing; its jobs run elsewhere",
        W.REVOKED: "its identity counts for nothing any more",
    },
    edges={
        (W.OFFLINE, W.ONLINE): Edge("it posted its first status of this session", "worker_online"),
        (W.ONLINE, W.SUSPECT): Edge("a status post is overdue", "worker_suspect"),
        (W.SUSPECT, W.ONLINE): Edge("it posted again", "worker_back"),
        (W.SUSPECT, W.LOST): Edge("two posts in a row are missing", "worker_lost"),
        (W.LOST, W.ONLINE): Edge("it posted again in the same session", "worker_back"),
        (W.OFFLINE, W.DRAINING): Edge(
            "it posted again, and the order to drain still stands", "worker_draining"
        ),
        (W.LOST, W.DRAINING): Edge("it posted again, and the order to drain still stands", "worker_draining"),
        (W.LOST, W.OFFLINE): Edge(
            "a new session of it has been enrolled, or its end is known", "worker_offline"
        ),
        (W.ONLINE, W.DRAINING): Edge(
            "a person, its session's limit or its instance's sleep asked for it", "worker_draining"
        ),
        (W.SUSPECT, W.DRAINING): Edge("a person or its instance's sleep asked for it", "worker_draining"),
        (W.DRAINING, W.ONLINE): Edge(
            "the order to drain was taken back, or its agent was started anew", "worker_online"
        ),
        (W.DRAINING, W.LOST): Edge("two posts in a row are missing", "worker_lost"),
        (W.DRAINING, W.OFFLINE): Edge("it has ended its session", "worker_offline"),
        (W.ONLINE, W.OFFLINE): Edge("it has ended its session", "worker_offline"),
        (W.SUSPECT, W.OFFLINE): Edge("it has ended its session", "worker_offline"),
        (W.OFFLINE, W.REVOKED): Edge("a person revoked it, or its secret was used twice", "worker_revoked"),
        (W.ONLINE, W.REVOKED): Edge("a person revoked it, or its secret was used twice", "worker_revoked"),
        (W.DRAINING, W.REVOKED): Edge("a person revoked it, or its secret was used twice", "worker_revoked"),
        (W.SUSPECT, W.REVOKED): Edge("a person revoked it, or its secret was used twice", "worker_revoked"),
        (W.LOST, W.REVOKED): Edge("a person revoked it, or its secret was used twice", "worker_revoked"),
    },
    limits={
        W.SUSPECT: Limit(minutes=10, then=W.LOST),
        W.DRAINING: Limit(minutes=24 * 60, then=W.OFFLINE),
    },
    stable={W.OFFLINE, W.ONLINE, W.LOST},
    final={W.REVOKED},
)

LISTENING = (W.ONLINE, W.DRAINING, W.SUSPECT)
"""States in which a worker may still claim and report what it was given."""


class JobState(StrEnum):
    DEFERRED = "deferred"
    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


J = JobState

JOB = StateTable(
    "job",
    states={
        J.QUEUED: "it waits for a worker, and says for what",
        J.DEFERRED: "no worker is looked for yet: it waits for its time, or for the jobs before it",
        J.DISPATCHED: "a worker was chosen and its bell was rung",
        J.RUNNING: "the worker has claimed it; its lease is renewed by the worker's posts",
        J.SUCCEEDED: "it ended with exit code 0",
        J.FAILED: "it ended otherwise, or used up its attempts",
        J.CANCELLED: "its owner, or an operator, stopped it",
    },
    edges={
        (J.QUEUED, J.DISPATCHED): Edge("a worker was chosen", "job_dispatched"),
        (J.DISPATCHED, J.RUNNING): Edge("the worker claimed it", "job_started"),
        (J.DISPATCHED, J.QUEUED): Edge("the worker did not answer, was lost, or drains", "job_requeued"),
        (J.RUNNING, J.QUEUED): Edge("the worker was lost, or ended its session", "job_requeued"),
        (J.RUNNING, J.DEFERRED): Edge("its command failed, and it is tried again later", "job_retry"),
        (J.DEFERRED, J.QUEUED): Edge("its time has come, or the jobs before it have ended", "job_released"),
        (J.DEFERRED, J.CANCELLED): Edge("somebody cancelled it, or a job before it failed", "job_cancelled"),
        (J.RUNNING, J.SUCCEEDED): Edge("exit code 0", "job_succeeded"),
        (J.RUNNING, J.FAILED): Edge(
            "another exit code, a timeout, or its last attempt was lost", "job_failed"
        ),
        (J.DISPATCHED, J.FAILED): Edge("its last attempt was lost before it started", "job_failed"),
        (J.QUEUED, J.FAILED): Edge("what it needs can never be had", "job_failed"),
        (J.QUEUED, J.CANCELLED): Edge("somebody cancelled it before it started", "job_cancelled"),
        (J.DISPATCHED, J.CANCELLED): Edge("somebody cancelled it before it started", "job_cancelled"),
        (J.RUNNING, J.CANCELLED): Edge("somebody cancelled it and its processes are gone", "job_cancelled"),
    },
    limits={J.DISPATCHED: Limit(minutes=10, then=J.QUEUED)},
    stable={J.QUEUED, J.DEFERRED, J.RUNNING},
    final={J.SUCCEEDED, J.FAILED, J.CANCELLED},
)


class DispatchState(StrEnum):
    RUNG = "rung"
    CLAIMED = "claimed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    WITHDRAWN = "withdrawn"


D = DispatchState

DISPATCH = StateTable(
    "dispatch",
    states={
        D.RUNG: "the worker's bell was rung; it is rung again until somebody answers",
        D.CLAIMED: "the worker holds it; its lease is its limit, renewed by every post and report",
        D.SUCCEEDED: "the worker reported success",
        D.FAILED: "the worker reported failure",
        D.CANCELLED: "the worker stopped it as ordered",
        D.INTERRUPTED: "the worker stopped before the work ended",
        D.WITHDRAWN: "taken back: whatever this worker still reports about it is answered with stand down",
    },
    edges={
        (D.RUNG, D.CLAIMED): Edge("the worker claimed it", "dispatch_claimed"),
        (D.RUNG, D.WITHDRAWN): Edge("nobody answered, or it is not wanted any more", "dispatch_withdrawn"),
        (D.CLAIMED, D.SUCCEEDED): Edge("the worker reported success", "dispatch_succeeded"),
        (D.CLAIMED, D.FAILED): Edge("the worker reported failure", "dispatch_failed"),
        (D.CLAIMED, D.CANCELLED): Edge("the worker stopped it as ordered", "dispatch_cancelled"),
        (D.CLAIMED, D.INTERRUPTED): Edge("the worker stopped before the work ended", "dispatch_interrupted"),
        (D.CLAIMED, D.WITHDRAWN): Edge("its lease ran out, or its worker is gone", "dispatch_withdrawn"),
    },
    limits={D.RUNG: Limit(minutes=10, then=D.WITHDRAWN)},
    stable={D.CLAIMED},
    final={D.SUCCEEDED, D.FAILED, D.CANCELLED, D.INTERRUPTED, D.WITHDRAWN},
)

OPEN = (D.RUNG, D.CLAIMED)
"""States of a dispatch that is still somebody's business."""


class StartState(StrEnum):
    PUSHING = "pushing"
    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    FAILED = "failed"


N = StartState

START = StateTable(
    "start",
    states={
        N.PUSHING: "written down; the provider is asked to run the notebook",
        N.QUEUED: "the provider has the notebook and looks for a machine",
        N.RUNNING: "its session runs",
        N.ENDED: "its session is over",
        N.FAILED: "no session came of it, or it ended in error",
    },
    edges={
        (N.PUSHING, N.QUEUED): Edge("the provider has taken the notebook", "start_queued"),
        (N.PUSHING, N.RUNNING): Edge("a worker has joined from it before the push was seen", "start_running"),
        (N.PUSHING, N.ENDED): Edge("it was taken back", "start_ended"),
        (N.PUSHING, N.FAILED): Edge("the provider refused it, or could not be asked in time", "start_failed"),
        (N.QUEUED, N.RUNNING): Edge(
            "the provider says that it runs, or a worker has joined from it", "start_running"
        ),
        (N.QUEUED, N.ENDED): Edge(
            "its session was over before it was looked at, or it was taken back", "start_ended"
        ),
        (N.QUEUED, N.FAILED): Edge("the provider found no machine in time, or it broke", "start_failed"),
        (N.RUNNING, N.ENDED): Edge("the provider says that it is over, or it was taken back", "start_ended"),
        (N.RUNNING, N.FAILED): Edge("the provider says that it ended in error", "start_failed"),
    },
    limits={
        N.PUSHING: Limit(minutes=15, then=N.FAILED),
        N.QUEUED: Limit(minutes=30, then=N.FAILED),
        # No provider's session is longer than a day.
        N.RUNNING: Limit(minutes=24 * 60, then=N.ENDED),
    },
    final={N.ENDED, N.FAILED},
)
