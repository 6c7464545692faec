"""A rented instance of an installation under test, and what its rows and its host say of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e import workspaces
from tests.e2e.client import Answer, Client
from tests.e2e.installation import Installation
from tests.e2e.waiting import eventually

AWAKE = ("running", "idle")


def policy(**fields: Any) -> dict[str, Any]:
    """An instance's own config: never asleep by itself unless fields say so; every window a fraction of a minute."""
    own = {
        "enabled": False,
        "pause_after_idle_minutes": 0.02,
        "delete_after_pause_minutes": 60,
        "check_interval_seconds": 1,
        "wake_method": "manual",
        "minimum_awake_minutes": 0,
        "verify_share": 1.0,
    }
    return {"auto_hibernation": {**own, **fields}}


@dataclass(frozen=True)
class Rented:
    installation: Installation
    client: Client
    id: str
    name: str

    @classmethod
    def rent(
        cls, installation: Installation, *, account: str, name: str, client: Client | None = None,
        config: Mapping[str, Any] | None = None, **fields: Any,
    ) -> Rented:  # fmt: skip
        """Asked for; its first box starts meanwhile."""
        client = client or installation.client()
        body = client.post("/api/instances", name=name, account=account, config=config or policy(), **fields)
        return cls(installation, client, str(body["id"]), name)

    def status(self) -> str:
        return str(self.client.instance(self.id)["status"])

    def until(self, *statuses: str, within_s: float = 60.0) -> Rented:
        def story() -> str:
            now = self.client.instance(self.id)
            chain = (self.client.chains(self.id) or [{}])[0]
            return (
                f"{self.name} {' or '.join(statuses)}; it is {now['status']}: {now['reason']}; chain: {chain}"
            )

        eventually(lambda: self.status() in statuses, what=story, within_s=within_s)
        return self

    def workspace(self) -> Path:
        """Of its living box."""
        ref = self.box()["provider_ref"]
        return self.installation.box_folder(ref) / "workspace"

    def fill(self, *, seed: int, bytes_more: int = 2_000_000) -> workspaces.Looked:
        return workspaces.fill(self.workspace(), seed=seed, bytes_more=bytes_more)

    def differences(self, before: workspaces.Looked) -> list[str]:
        return workspaces.differences(before, workspaces.look(self.workspace()))

    def hibernate(self) -> None:
        self.client.post(f"/api/instances/{self.id}/hibernate")

    def wake(self) -> Answer:
        """Asked for, whatever the answer."""
        return self.client.call("POST", f"/api/instances/{self.id}/wake", {})

    def a_minute_later(self) -> None:
        """As if the last request to wake it had been more than a minute ago."""
        self.installation.rows.change(
            "UPDATE hibernation_instance SET wake_asked_at = NULL WHERE id = ?", self.id
        )

    # -- rows -------------------------------------------------------------------------------------------

    def boxes(self) -> list[dict[str, Any]]:
        """The oldest first."""
        return self.installation.rows.all(
            "SELECT * FROM hibernation_box WHERE instance_id = ? ORDER BY epoch", self.id
        )

    def box(self) -> dict[str, Any]:
        (living,) = [box for box in self.boxes() if box["state"] in ("renting", "booting", "running")]
        return living

    def snapshots(self) -> list[dict[str, Any]]:
        return self.installation.rows.all(
            "SELECT * FROM snapshots_snapshot WHERE workspace_ref = ? ORDER BY generation", self.id
        )

    def chain(self) -> dict[str, Any] | None:
        """The active one."""
        found = self.installation.rows.all(
            "SELECT * FROM core_chain WHERE subject_id = ? AND state = 'active'", self.id
        )
        return found[0] if found else None

    def dispatches(self, kind: str) -> list[dict[str, Any]]:
        return self.installation.rows.all(
            "SELECT d.* FROM pool_dispatch d JOIN hibernation_instance i ON i.worker_id = d.worker_id"
            " WHERE i.id = ? AND d.kind = ? ORDER BY d.rung_at",
            self.id, kind,
        )  # fmt: skip

    # -- the host's own records ---------------------------------------------------------------------------

    def host_said(self) -> dict[str, int]:
        """How often the host rented a box of this instance, was told to destroy one, and saw one gone."""
        log = self.installation.said("local-host")
        labels = {box["label"] for box in self.boxes()}
        rented = dict(re.findall(r"box=(\S+) rented label=(\S+)", log))
        ours = {ref for ref, label in rented.items() if label in labels}
        return {
            "rented": len(ours),
            "destroyed": sum(ref in ours for ref in re.findall(r"box=(\S+) to be destroyed", log)),
            "gone": sum(ref in ours for ref in re.findall(r"box=(\S+) gone", log)),
        }


def nothing_was_risked(rented: Rented) -> None:
    """No box that was handed over went without a verified generation of its own epoch, verified before it was let go."""
    generations = {row["id"]: row for row in rented.snapshots()}
    for box in rented.boxes():
        if box["destroy_asked_at"] is None or box["handed_over_at"] is None:
            continue
        safe = generations[box["safe_snapshot_id"]]
        assert safe["state"] == "verified", box
        assert safe["epoch"] == box["safe_epoch"] == box["epoch"], box
        assert safe["verified_at"] <= box["destroy_asked_at"], box
