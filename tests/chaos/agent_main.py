"""`python -m tests.chaos.agent_main run …` is `python -m agent run …`, the real agent, with points to die at.

snapshot:begun     claimed and journalled, nothing read
snapshot:some      a first object is uploaded
snapshot:uploaded  everything is uploaded, nothing committed
snapshot:committed the control plane has the commit, the dispatch is not reported
snapshot:reported  reported, the journal does not say so
restore:begun      claimed and journalled, nothing fetched
restore:some       some files are in place
restore:placed     every file is in place, no note of it on the disk
restore:noted      noted, not reported
restore:reported   reported, the journal does not say so
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from agent import dispatcher, snapshotting
from agent.__main__ import main
from hibernation.providers.local_process import BOX_MARK
from snapshots.engine.remote import PresignedRemote
from snapshots.engine.restore_write import TreeWriter
from tests.chaos.points import Points, die

SOME_FILES = 40

host_folder = os.environ.get(BOX_MARK, "").rpartition(":")[0]
points = Points(Path(host_folder).parent)
who = os.environ.get("DORMOUSE_AGENT_NAME", "")


def reach(point: str) -> None:
    if host_folder and points.take(f"{who}:{point}"):
        die(parent=False)


def replace(owner: Any, name: str, *, before: str = "", after: Callable[[Any], str] | str = "") -> None:
    """before, after: the point that is reached there; after may say which by the first argument."""
    original = getattr(owner, name)

    @wraps(original)
    def wrapped(*args: Any, **named: Any) -> Any:
        if before:
            reach(before)
        result = original(*args, **named)
        if after:
            reach(after if isinstance(after, str) else after(args))
        return result

    setattr(owner, name, wrapped)


class Counted:
    files = 0


def file_made(args: Any) -> str:
    Counted.files += 1
    return "restore:some" if Counted.files >= SOME_FILES else ""


def watch() -> None:
    replace(snapshotting.SnapshotWork, "run", before="snapshot:begun")
    replace(PresignedRemote, "put", after="snapshot:some")
    replace(snapshotting.SnapshotWork, "_commit", before="snapshot:uploaded", after="snapshot:committed")
    replace(snapshotting.RestoreWork, "run", before="restore:begun", after="restore:noted")
    replace(TreeWriter, "make_file", after=file_made)
    replace(snapshotting, "restore", after="restore:placed")
    replace(dispatcher.Dispatcher, "_finish", after=lambda args: f"{args[1].claim.kind}:reported")


if __name__ == "__main__":
    watch()
    sys.exit(main())
