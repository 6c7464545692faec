"""A real PostgreSQL of one's own: on a unix socket, empty, without fsync; ready in about a second.

server = postgres.start(folder)      # None where this machine has no PostgreSQL
os.environ["DATABASE_URL"] = server.url
server.stop()
"""

from __future__ import annotations

import glob
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_WITHIN_S = 30.0
LEAST_VERSION = 14
"""What Django 5.2 asks for."""

USERS = ("postgres", "nobody")
"""Who runs the server when the tests run as root: PostgreSQL refuses to."""


class PostgresFailed(RuntimeError):
    """It is installed but did not start; the text is the end of its log."""


def binaries() -> Path | None:
    """The folder of initdb and postgres: DORMOUSE_POSTGRES_BIN, PATH, or where distributions put it; the newest that fits."""
    named = [os.environ.get("DORMOUSE_POSTGRES_BIN", ""), os.path.dirname(shutil.which("postgres") or "")]
    found = [*named, *sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=_version, reverse=True)]
    for folder in (Path(name) for name in found if name):
        if (folder / "initdb").exists() and _reported(folder) >= LEAST_VERSION:
            return folder
    return None


def _version(path: str) -> int:
    return int((re.findall(r"\d+", path) or ["0"])[0])


def _reported(folder: Path) -> int:
    try:
        said = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    return int((re.findall(r"\d+", said) or ["0"])[0])


@dataclass
class Postgres:
    """url: DATABASE_URL of an empty database whose user may create others."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Fast shutdown (SIGINT), and its files are gone."""
        self.process.send_signal(2)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def start() -> Postgres | None:
    """A running server in a folder of its own; None where there is none to run. Raises PostgresFailed."""
    found = binaries()
    if found is None:
        return None
    # Not under a private temporary folder: the user that runs it must be able to walk there.
    folder = Path(tempfile.mkdtemp(prefix="dormouse-pg-", dir="/tmp"))
    user = _other_user(folder)
    data = folder / "data"
    made = subprocess.run(
        [found / "initdb", "--no-sync", "--auth=trust", "--username=dormouse", "--encoding=UTF8", "--locale=C", "-D", data],
        capture_output=True, text=True, check=False, cwd=folder, **user,
    )  # fmt: skip
    if made.returncode:
        raise PostgresFailed(made.stderr[-1000:])
    options = {
        "listen_addresses": "", "unix_socket_directories": str(folder), "fsync": "off", "full_page_writes": "off",
        "synchronous_commit": "off", "max_connections": "200", "shared_buffers": "64MB", "timezone": "UTC",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [found / "postgres", "-D", data, *words],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, **user,
        )  # fmt: skip
    server = Postgres(f"postgresql://dormouse@/postgres?host={folder}", folder, process)
    deadline = time.monotonic() + READY_WITHIN_S
    while not _ready(folder):
        if process.poll() is not None or time.monotonic() > deadline:
            text = (folder / "log").read_text(errors="replace")[-1000:]
            server.stop()
            raise PostgresFailed(text)
        time.sleep(0.05)
    return server


def _ready(folder: Path) -> bool:
    """The last line of postmaster.pid says so; a connection would need the driver."""
    try:
        return (folder / "data" / "postmaster.pid").read_text().splitlines()[-1].strip() == "ready"
    except (OSError, IndexError):
        return False


def _other_user(folder: Path) -> dict[str, Any]:
    """subprocess's arguments to run as somebody else, whose the folder then is; nothing where we are not root."""
    if os.getuid():
        return {}
    for name in USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    return {}
