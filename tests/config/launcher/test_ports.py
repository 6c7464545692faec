"""Finding a free port."""

import socket

import pytest

from config.launcher.ports import NoPort, is_free, next_free


@pytest.fixture
def taken():
    """A port that somebody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_taken_port_is_not_free_and_the_next_one_is_found(taken):
    assert not is_free("127.0.0.1", taken)
    assert next_free("127.0.0.1", taken) > taken


def test_address_of_another_machine_is_refused_with_its_name():
    for host in ("203.0.113.1", "a..b", "nowhere.invalid"):
        with pytest.raises(NoPort, match=f"{host} is no address of this machine"):
            is_free(host, 8000)


def test_end_of_the_range_is_said_with_what_to_do(monkeypatch):
    monkeypatch.setattr("config.launcher.ports.is_free", lambda host, port: False)
    with pytest.raises(NoPort, match="DORMOUSE_PORT"):
        next_free("127.0.0.1", 65_530)
