"""The agent's wheel: built from this checkout, so that agent and control plane always speak the same version."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from django.conf import settings

from core.errors import Busy
from hibernation.providers.registry import AgentWheel

SOURCES = ("pyproject.toml", "agent", "snapshots/__init__.py", "snapshots/engine")
"""What the wheel is made of (pyproject.toml, tool.hatch.build.targets.wheel)."""

BUILD_LIMIT_S = 120
ZIP_EPOCH_S = 315_532_800
"""1980-01-01, the earliest time that a zip file can hold: the same sources give the same bytes."""


class WheelNotBuilt(RuntimeError):
    """The build failed; the text is the end of its output."""


@dataclass(frozen=True)
class Wheel:
    path: Path
    sha256: str


def wheel_ensure() -> Wheel:
    """The wheel of this checkout's sources; built into `<data>/agent` where it is not there yet.

    Asked once a process: running code does not change. Several processes may build at once; one result stays.
    """
    return _ensure(settings.CHECKOUT, settings.DATA_DIR / "agent")


def agent_wheel() -> AgentWheel:
    """The same for providers whose boxes fetch it (settings.AGENT_WHEEL). Raises Busy where it cannot be built just now."""
    try:
        wheel = wheel_ensure()
    except (WheelNotBuilt, OSError, subprocess.TimeoutExpired) as error:
        raise Busy(f"the agent for the box is not there: {error}"[:500], retry_after_s=60) from error
    return AgentWheel(name=wheel.path.name, sha256=wheel.sha256)


@lru_cache(maxsize=4)
def _ensure(checkout: Path, target: Path) -> Wheel:
    folder = target / sources_digest(checkout)[:16]
    if not folder.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".build-") as scratch:
            built = Path(scratch) / "wheel"
            _build(checkout, built)
            try:
                built.rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process was faster
                    raise
        _remove_old(target, keep=folder)
    [path] = folder.glob("*.whl")
    return Wheel(path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def sources_digest(checkout: Path) -> str:
    """Changes with every byte and every name of the sources."""
    digest = hashlib.sha256()
    for path in _files(checkout):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(checkout)}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def _files(checkout: Path) -> Iterator[Path]:
    for source in SOURCES:
        path = checkout / source
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (item for item in found if item.is_file() and "__pycache__" not in item.parts)


def _build(checkout: Path, folder: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=checkout,
        env=os.environ | {"SOURCE_DATE_EPOCH": str(ZIP_EPOCH_S)},
        capture_output=True,
        text=True,
        timeout=BUILD_LIMIT_S,
        check=False,
    )
    if result.returncode:
        raise WheelNotBuilt(
            f"the agent's wheel could not be built: {(result.stderr or result.stdout)[-800:]}"
        )


def _remove_old(target: Path, *, keep: Path) -> None:
    for folder in target.iterdir():
        if folder != keep and not folder.name.startswith("."):
            shutil.rmtree(folder, ignore_errors=True)
