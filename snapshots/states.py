"""Edge table of a snapshot: immutable once verified."""

from enum import StrEnum

from core.states import Edge, Limit, StateTable


class SnapshotState(StrEnum):
    TAKING = "taking"
    COMMITTED = "committed"
    VERIFIED = "verified"
    FAILED = "failed"
    DAMAGED = "damaged"
    DELETED = "deleted"


S = SnapshotState

SNAPSHOT = StateTable(
    "snapshot",
    states={
        S.TAKING: "the agent reads the workspace and uploads packs",
        S.COMMITTED: "everything is uploaded, the manifest last; nobody has checked it yet",
        S.VERIFIED: "every pack was found whole and a sample was read back; a box may be destroyed on its strength",
        S.FAILED: "it was never finished; it is no generation",
        S.DAMAGED: "it was verified once and the store no longer holds all of it",
        S.DELETED: "its owner, or retention, let it go",
    },
    edges={
        (S.TAKING, S.COMMITTED): Edge("the agent committed it", "snapshot_committed"),
        (S.TAKING, S.FAILED): Edge(
            "the agent refused, was lost, or the chain was stopped", "snapshot_failed"
        ),
        (S.COMMITTED, S.VERIFIED): Edge(
            "the control plane has seen every pack and read a sample back", "snapshot_verified"
        ),
        (S.COMMITTED, S.FAILED): Edge("the check found something missing or different", "snapshot_failed"),
        (S.VERIFIED, S.DAMAGED): Edge(
            "a later check found something missing or different", "snapshot_damaged"
        ),
        (S.DAMAGED, S.VERIFIED): Edge("a later check found it whole again", "snapshot_verified"),
        (S.VERIFIED, S.DELETED): Edge("its owner, or retention, let it go", "snapshot_deleted"),
        (S.DAMAGED, S.DELETED): Edge("its owner, or retention, let it go", "snapshot_deleted"),
    },
    limits={
        S.TAKING: Limit(minutes=24 * 60, then=S.FAILED),
        S.COMMITTED: Limit(minutes=24 * 60, then=S.FAILED),
    },
    stable={S.VERIFIED, S.DAMAGED},
    final={S.FAILED, S.DELETED},
)
