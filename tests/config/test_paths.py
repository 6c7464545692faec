"""Where the unix sockets lie."""

import os
from pathlib import Path

import pytest

from config.paths import LONGEST_SOCKET_NAME, SOCKET_PATH_LIMIT_BYTES, RunFolderRefused, run_dir, run_dir_make


def test_sockets_lie_in_the_data_folder_where_their_path_fits():
    assert run_dir(Path("/srv/dormouse"), {}) == Path("/srv/dormouse/run")


@pytest.mark.parametrize("base", ["/run/user/1000", "/a" * 60])
def test_deep_data_folder_gets_a_short_folder_of_its_own(base):
    deep, other = Path("/srv") / ("d" * 90), Path("/srv") / ("e" * 90)
    environ = {"XDG_RUNTIME_DIR": base}
    found = run_dir(deep, environ)
    assert len(os.fsencode(found / LONGEST_SOCKET_NAME)) <= SOCKET_PATH_LIMIT_BYTES
    assert found == run_dir(deep, environ)
    assert found != run_dir(other, environ)


def test_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    with pytest.raises(RunFolderRefused):
        run_dir_make(tmp_path / "link")


def test_folder_is_closed_to_others_even_where_it_stood_open(tmp_path):
    (tmp_path / "run").mkdir(mode=0o755)
    run_dir_make(tmp_path / "run")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
