"""Edge table of an alert."""

from enum import StrEnum

from core.states import Edge, StateTable


class AlertState(StrEnum):
    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


A = AlertState

ALERT = StateTable(
    "alert",
    states={
        A.OPEN: "its cause is there and nobody has said that they know",
        A.ACKNOWLEDGED: "its cause is there and somebody knows",
        A.RESOLVED: "its cause has gone",
    },
    edges={
        (A.OPEN, A.ACKNOWLEDGED): Edge("a person has seen it", "alert_acknowledged"),
        (A.OPEN, A.RESOLVED): Edge("its cause has gone", "alert_resolved"),
        (A.ACKNOWLEDGED, A.RESOLVED): Edge("its cause has gone", "alert_resolved"),
        (A.RESOLVED, A.OPEN): Edge(
            "its cause came back soon after: the same alert, told only once", "alert_reopened"
        ),
    },
    stable={A.OPEN, A.ACKNOWLEDGED, A.RESOLVED},
)
