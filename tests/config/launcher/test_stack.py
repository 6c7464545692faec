"""What cannot be started is said in one sentence, and nothing was started."""

import socket

import pytest

from config.launcher.stack import run_guarded


def refused(capsys, **environ):
    assert run_guarded(environ, lambda *_: pytest.fail("it was started")) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_data_folder_in_which_the_lock_cannot_be_made(tmp_path, capsys):
    (tmp_path / "launcher.json").mkdir()
    said = refused(capsys, DORMOUSE_DATA_DIR=str(tmp_path))
    assert said.startswith("DORMOUSE_DATA_DIR cannot be used (") and str(tmp_path) in said


@pytest.mark.parametrize("listen", ["203.0.113.1:8000", "a..b:8000"])
def test_address_that_is_not_this_machines(tmp_path, capsys, listen):
    said = refused(capsys, DORMOUSE_DATA_DIR=str(tmp_path), DORMOUSE_LISTEN=listen)
    assert said == f"{listen.rpartition(':')[0]} is no address of this machine"


def test_taken_port_that_others_count_on(tmp_path, capsys):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        listen = f"127.0.0.1:{server.getsockname()[1]}"
        said = refused(capsys, DORMOUSE_DATA_DIR=str(tmp_path), DORMOUSE_LISTEN=listen)
    assert said.startswith(f"{listen} is taken")
