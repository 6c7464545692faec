"""Finding a TCP port that is free now."""

from __future__ import annotations

import errno
import socket

TRIES = 100


class NoPort(RuntimeError):
    """Nothing free; the text says where was looked."""


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there. Raises NoPort where the address is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except PermissionError as error:
            raise NoPort(
                f"port {port} needs rights that this user does not have: choose one above 1023"
            ) from error
        except (socket.gaierror, UnicodeError) as error:
            raise NoPort(f"{host} is no address of this machine") from error
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise NoPort(f"{host} is no address of this machine") from error
            return False
    return True


def next_free(host: str, port: int) -> int:
    """`port`, or the first free one of the hundred behind it. Raises NoPort."""
    for candidate in range(port, min(port + TRIES, 65536)):
        if is_free(host, candidate):
            return candidate
    raise NoPort(f"no port from {port} to {port + TRIES - 1} is free: set DORMOUSE_PORT to another")
