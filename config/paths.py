"""Where things lie on this machine: the checkout, the data folder, and the folder of the unix sockets."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent

SOCKET_PATH_LIMIT_BYTES = 100
"""Linux takes 107 bytes for the path of a unix socket, macOS 103."""

VALKEY_SOCKET = "valkey.sock"
WEB_SOCKET = "web.sock"
LONGEST_SOCKET_NAME = VALKEY_SOCKET


class RunFolderRefused(OSError):
    """The folder for the sockets belongs to somebody else."""


def data_dir(environ: Mapping[str, str]) -> Path:
    """DORMOUSE_DATA_DIR, or `.data` in the checkout. Absolute; it need not exist."""
    value = environ.get("DORMOUSE_DATA_DIR", "").strip()
    return Path(os.path.abspath(os.path.expanduser(value))) if value else CHECKOUT / ".data"


def run_dir(data: Path, environ: Mapping[str, str]) -> Path:
    """The folder of this data folder's unix sockets: `<data>/run`, or where that path would be too long for a
    socket, a short one under XDG_RUNTIME_DIR or the temporary folder, named by a hash of the data folder."""
    plain = data / "run"
    if len(os.fsencode(plain / LONGEST_SOCKET_NAME)) <= SOCKET_PATH_LIMIT_BYTES:
        return plain
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    base = environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    short = Path(base) / f"dormouse-{os.getuid()}-{digest}"
    if len(os.fsencode(short / LONGEST_SOCKET_NAME)) <= SOCKET_PATH_LIMIT_BYTES:
        return short
    return Path("/tmp") / short.name


def run_dir_make(folder: Path) -> None:
    """Create the folder for the sockets, or check that it is ours: whoever may write there may pose as Redis.

    Raises RunFolderRefused where it belongs to somebody else or is a link.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise RunFolderRefused(f"{folder} is not a folder of this user: remove it or set XDG_RUNTIME_DIR")
    folder.chmod(0o700)
