"""States of a chain. Its steps are the definition's; this is only whether it still goes on."""

from enum import StrEnum

from core.states import Edge, StateTable


class ChainState(StrEnum):
    ACTIVE = "active"
    SUCCEEDED = "succeeded"
    ABORTED = "aborted"
    FAILED = "failed"


CHAIN = StateTable(
    "chain",
    states={
        ChainState.ACTIVE: "a step is running or due; each step has its own time limit",
        ChainState.SUCCEEDED: "every step is done",
        ChainState.ABORTED: "stopped on purpose; what it had begun was taken back",
        ChainState.FAILED: "a step could not be done; what it had begun was taken back",
    },
    edges={
        (ChainState.ACTIVE, ChainState.SUCCEEDED): Edge("the last step is done", event="chain_succeeded"),
        (ChainState.ACTIVE, ChainState.ABORTED): Edge(
            "activity, an operator or a check stopped it", event="chain_aborted"
        ),
        (ChainState.ACTIVE, ChainState.FAILED): Edge(
            "a step used up its attempts or its time", event="chain_failed"
        ),
    },
    stable={ChainState.ACTIVE},
    final={ChainState.SUCCEEDED, ChainState.ABORTED, ChainState.FAILED},
)
