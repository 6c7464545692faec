"""The server's side of checkpoints for the test double: one job's generations in a folder store."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snapshots.engine.remote import StoreRemote
from snapshots.engine.restore import restore
from tests.agent.control_plane import STAND_DOWN, ControlPlane
from tests.agent.snapshot_server import OWNER_KEY, SnapshotServer


@dataclass
class CheckpointServer:
    """Every dispatch is an attempt of the same job. refusals: answers that the next questions get.

    requests: (verb, body) of all questions. given_up: request id → error.
    """

    plane: ControlPlane
    folder: Path
    refusals: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    given_up: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.snapshots = SnapshotServer(self.plane, self.folder)
        self._begun: dict[str, str] = {}
        self._plain = self.plane.extra
        self.plane.extra = self._answer

    @property
    def generations(self) -> list[dict[str, Any]]:
        """The commits, in their order."""
        return self.snapshots.commits

    def holds(self, number: int, target: Path) -> Path:
        """Generation `number` (from 1) as it comes back, in a folder of its own."""
        commit = self.generations[number - 1]
        restore(
            target,
            remote=StoreRemote(self.snapshots.store),
            owner_key=OWNER_KEY,
            root_key=commit["root_key"],
            expected_content_id=commit["content_id"],
        )
        return target

    def _answer(self, path: str, bearer: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        match = re.fullmatch(r"/api/agent/dispatch/([\w-]+)/(checkpoint|restore)", path)
        if match is None:
            return self._plain(path, bearer, body) if self._plain is not None else None
        self.requests.append((match[2], body))
        held = self.plane.dispatches[match[1]]
        if held.superseded or body["fence"] != held.claim["fence"]:
            return STAND_DOWN
        if self.refusals:
            return self.refusals.pop(0)
        return self._begin(body) if match[2] == "checkpoint" else self._newest()

    def _begin(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body.get("error") is not None:
            self.given_up[body["request_id"]] = body["error"]
        snapshot_id = self._begun.setdefault(body["request_id"], f"s_{len(self._begun) + 1}")
        parent = self.generations[-1]["root_key"].rpartition("/")[2] if self.generations else None
        self.snapshots.offer(snapshot_id, parent=parent, fence=body["fence"])
        return 200, {"snapshot_id": snapshot_id, "generation": len(self._begun)}

    def _newest(self) -> tuple[int, dict[str, Any]]:
        if not self.generations:
            return 200, {"generation": 0}
        commit = self.generations[-1]
        snapshot_id = commit["root_key"].rpartition("/")[2]
        self.snapshots.offer(snapshot_id, content_id=commit["content_id"])
        return 200, {
            "snapshot_id": snapshot_id,
            "content_id": commit["content_id"],
            "generation": len(self.generations),
        }
