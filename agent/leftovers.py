"""Working folders that ended jobs have left on this machine: how many stay, and whose."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

log = logging.getLogger("agent.jobs")

WORK_FOLDERS_KEPT = 10
"""The newest ones stay on the disk for whoever comes to look."""

_OWNER = "owner"


def owner_note(folder: Path, owner: object) -> None:
    """Write down whose job the run in `folder` is. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / _OWNER).write_text(str(owner or ""), encoding="utf-8")


def others_forget(jobs_dir: Path, owner: object, *, held: Collection[str]) -> None:
    """Remove what jobs of anybody else than `owner` have left. held: dispatches that are under way, which stay.

    All jobs run as one user: what stays on the disk can be read by the next one.
    """
    for folder in _left(jobs_dir):
        if folder.name in held or _owner(folder) == str(owner or ""):
            continue
        log.info("dispatch=%s working folder removed: somebody else's job comes", folder.name)
        shutil.rmtree(folder, ignore_errors=True)


def old_forget(jobs_dir: Path) -> None:
    """Keep the newest ones."""
    kept = sorted(_left(jobs_dir), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in kept[WORK_FOLDERS_KEPT:]:
        log.info("dispatch=%s working folder removed, %d newer ones are kept", folder.name, WORK_FOLDERS_KEPT)
        shutil.rmtree(folder, ignore_errors=True)


def _left(jobs_dir: Path) -> Iterator[Path]:
    """Folders of which nothing runs, or can be taken up again."""
    if jobs_dir.is_dir():
        yield from (folder for folder in list(jobs_dir.iterdir()) if not (folder / "pid").exists())


def _owner(folder: Path) -> str | None:
    try:
        return (folder / _OWNER).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
