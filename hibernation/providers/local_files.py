"""Files of the local host: they appear and change whole or not at all, and a folder that goes is really gone."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any


def json_write(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace the file, mode 0600. After a crash at any point it holds the old value or the new one.

    durable=False: it may be lost with the machine, not with the process.
    """
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(beside, path)
    if durable:
        folder_sync(path.parent)


def json_read(path: Path) -> Any:
    """The value, or None where there is no file. ValueError where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def folder_sync(folder: Path) -> None:
    """Make the names in a folder outlive the machine, not only this process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tree_remove(folder: Path, *, last: str = "") -> None:
    """Remove a folder and all that is in it, read-only folders too; links are removed, never followed.

    last: the name of a file in it that goes after everything else, so that a removal that was cut off is seen and
    taken up again. OSError where something cannot be removed; calling again goes on from there.
    """
    with contextlib.suppress(FileNotFoundError):
        _empty(folder, keep=last)
        (folder / last).unlink(missing_ok=True) if last else None
        folder.rmdir()


def _empty(folder: Path, *, keep: str = "") -> None:
    # A process of the box may still be writing when this begins, hence ever again until nothing is found.
    if stat.S_IMODE(folder.lstat().st_mode) & 0o700 != 0o700:
        folder.chmod(0o700)
    while True:
        with os.scandir(folder) as entries:
            found = [(Path(e.path), e.is_dir(follow_symlinks=False)) for e in entries if e.name != keep]
        if not found:
            return
        for path, is_folder in found:
            if is_folder:
                _empty(path)
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
