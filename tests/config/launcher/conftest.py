"""Ports for the launcher's tests."""

import socket
from contextlib import contextmanager

import pytest


class FreePort:
    @contextmanager
    def taken(self):
        """A port that somebody listens on, for as long as the block runs."""
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            yield server.getsockname()[1]


@pytest.fixture
def free_port():
    return FreePort()
