"""The wheel's dependencies stand in one place, agent/requirements.txt; hatchling reads them from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class RequirementsHook(MetadataHookInterface):
    """`dynamic = ["dependencies"]` in pyproject.toml names this."""

    def update(self, metadata: dict[str, Any]) -> None:
        lines = (Path(self.root) / "agent" / "requirements.txt").read_text(encoding="utf-8").splitlines()
        metadata["dependencies"] = [
            line.strip() for line in lines if line.strip() and not line.startswith("#")
        ]
