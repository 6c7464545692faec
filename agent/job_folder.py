"""Where a job starts, and whether that is where it should be."""

from __future__ import annotations

from pathlib import Path

from agent import wire
from agent.runner import WorkRefused


def start_folder(base: Path, workdir: object) -> Path:
    """`base`/`workdir`, made where it is not there. WorkRefused where a link on the way leads out of `base`.

    workdir: as the work names it; None or "" is `base` itself. Raises OSError where this machine cannot make it.
    """
    if not workdir:
        return base
    if not isinstance(workdir, str):
        raise WorkRefused("workdir must be text")
    try:
        folder = base / wire.check_path(workdir)
    except wire.WireError as error:
        raise WorkRefused(f"workdir: {error}") from error
    base.mkdir(parents=True, exist_ok=True)
    # Before it is made, so that nothing is made elsewhere either.
    if not folder.resolve().is_relative_to(base.resolve()):
        raise WorkRefused(f"workdir {workdir!r} leads out of the job's folder by a link")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise WorkRefused(f"workdir {workdir!r} cannot be a folder: a file is in its place") from error
    return folder
