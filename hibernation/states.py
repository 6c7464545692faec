"""Edge tables of rented instances and of the boxes that they live on."""

from enum import StrEnum

from core.states import Edge, Limit, StateTable


class InstanceState(StrEnum):
    PROVISIONING = "provisioning"
    RUNNING = "running"
    IDLE = "idle"
    HIBERNATING = "hibernating"
    HIBERNATED = "hibernated"
    WAKING = "waking"
    DELETED = "deleted"
    LOST = "lost"


N = InstanceState

INSTANCE = StateTable(
    "instance",
    states={
        N.PROVISIONING: "its first box is being rented and started",
        N.RUNNING: "its box runs and is billed",
        N.IDLE: "its box runs and is billed, and nobody uses it: the pause window is running",
        N.HIBERNATING: "its workspace is being saved; the box goes only after the copy is verified",
        N.HIBERNATED: "no box, nothing billed but storage; the workspace is a verified generation",
        N.WAKING: "a box is being rented and the workspace restored",
        N.DELETED: "hibernated for longer than its policy says; the snapshot stays and can be woken",
        N.LOST: "the provider no longer has a box that nobody here destroyed",
    },
    edges={
        (N.PROVISIONING, N.RUNNING): Edge("the first box answers", "started"),
        (N.PROVISIONING, N.DELETED): Edge(
            "no box could be rented; it never held anything", "provisioning_failed"
        ),
        (N.RUNNING, N.IDLE): Edge(
            "every GPU is below the threshold and nothing else holds it awake", "idle_detected"
        ),
        (N.IDLE, N.RUNNING): Edge("somebody uses it again, or asked to keep it awake", "active_again"),
        (N.IDLE, N.HIBERNATING): Edge("idle for the whole pause window, or asked for", "hibernating"),
        (N.RUNNING, N.HIBERNATING): Edge(
            "asked for by its owner, its schedule or an operator", "hibernating"
        ),
        (N.HIBERNATING, N.RUNNING): Edge(
            "activity, a failed snapshot or an operator stopped it: the box was not touched",
            "hibernation_stopped",
        ),
        (N.HIBERNATING, N.HIBERNATED): Edge("the provider shows that the box is gone", "hibernated"),
        (N.HIBERNATING, N.DELETED): Edge(
            "its owner discarded the workspace and the box is gone", "discarded"
        ),
        (N.HIBERNATING, N.LOST): Edge("the box vanished before its copy was verified", "lost"),
        (N.HIBERNATED, N.WAKING): Edge("woken by a button, a request or a schedule", "waking"),
        (N.HIBERNATED, N.DELETED): Edge(
            "paused for the whole delete window; the snapshot was checked once more", "deleted"
        ),
        (N.DELETED, N.WAKING): Edge("woken from the snapshot that stayed", "waking"),
        (N.WAKING, N.RUNNING): Edge("every file of the generation is restored and hashed", "woke_up"),
        (N.WAKING, N.HIBERNATED): Edge("no offer worked; the snapshot was not touched", "wake_failed"),
        (N.RUNNING, N.LOST): Edge("the provider no longer lists its box", "lost"),
        (N.IDLE, N.LOST): Edge("the provider no longer lists its box", "lost"),
        (N.LOST, N.WAKING): Edge("woken from its last verified generation", "waking"),
        (N.LOST, N.RUNNING): Edge("the provider lists its box again and its agent answers", "found_again"),
        (N.LOST, N.DELETED): Edge("its owner gave it up", "discarded"),
    },
    limits={
        N.PROVISIONING: Limit(minutes=120, then=None),
        N.IDLE: Limit(minutes=8 * 24 * 60, then=N.RUNNING),  # longer than the longest pause of a policy
        N.HIBERNATING: Limit(minutes=24 * 60, then=None),
        N.WAKING: Limit(minutes=12 * 60, then=None),
    },
    stable={N.RUNNING, N.HIBERNATED, N.DELETED, N.LOST},
)

AWAKE = (N.RUNNING, N.IDLE)
ASLEEP = (N.HIBERNATED, N.DELETED, N.LOST)


class BoxState(StrEnum):
    RENTING = "renting"
    BOOTING = "booting"
    RUNNING = "running"
    DESTROYING = "destroying"
    STRANDED = "stranded"
    GONE = "gone"
    REFUSED = "refused"


B = BoxState

BOX = StateTable(
    "box",
    states={
        B.RENTING: "its label is written down; the provider may or may not have created it",
        B.BOOTING: "the provider has it; its agent has not answered yet",
        B.RUNNING: "its agent answers",
        B.DESTROYING: "it must go; asked for again until the provider shows that it is gone",
        B.STRANDED: "it came back after its instance had gone on without it; its work is nowhere else, a person decides",
        B.GONE: "the provider's complete list and a read by its id say that it is gone",
        B.REFUSED: "the provider never created it",
    },
    edges={
        (B.RENTING, B.BOOTING): Edge("the provider has it", "box_rented"),
        (B.RENTING, B.REFUSED): Edge("the provider refused, or lists nothing with its label", "box_refused"),
        (B.RENTING, B.DESTROYING): Edge(
            "it is not wanted any more, and the provider may have created it all the same", "box_destroying"
        ),
        (B.BOOTING, B.RUNNING): Edge("its agent answers", "box_up"),
        (B.BOOTING, B.DESTROYING): Edge(
            "it did not come up in time, or is not wanted any more", "box_destroying"
        ),
        (B.RUNNING, B.DESTROYING): Edge(
            "its workspace is saved, was never handed over, or was discarded", "box_destroying"
        ),
        (B.BOOTING, B.GONE): Edge("it vanished at the provider", "box_gone"),
        (B.RUNNING, B.GONE): Edge("it vanished at the provider", "box_gone"),
        (B.DESTROYING, B.GONE): Edge("the provider shows that it is gone", "box_gone"),
        (B.REFUSED, B.DESTROYING): Edge("it turned up at the provider after all", "box_turned_up"),
        (B.GONE, B.DESTROYING): Edge(
            "it turned up at the provider again, with nothing to lose", "box_turned_up"
        ),
        (B.GONE, B.RUNNING): Edge(
            "the provider lists it again, and its lost instance waits for it", "box_found_again"
        ),
        (B.GONE, B.STRANDED): Edge(
            "the provider lists it again, with work that no generation holds", "box_stranded"
        ),
        (B.STRANDED, B.DESTROYING): Edge("its owner discarded what is on it", "box_destroying"),
        (B.STRANDED, B.GONE): Edge("it vanished at the provider again", "box_gone"),
    },
    limits={
        B.RENTING: Limit(minutes=15, then=None),
        B.BOOTING: Limit(minutes=30, then=None),
        B.DESTROYING: Limit(minutes=15, then=None),
        B.STRANDED: Limit(minutes=60, then=None),
    },
    stable={B.RUNNING, B.GONE, B.REFUSED},
)

BILLED = (B.RENTING, B.BOOTING, B.RUNNING, B.DESTROYING, B.STRANDED)
"""States in which a box may be costing money."""

LIVE = (B.RENTING, B.BOOTING, B.RUNNING)
"""States of the one box that an instance may have; the boxes before it are on their way out."""
