"""The agent's wheel, as the control plane builds and serves it."""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.conf import settings

from config import wheel
from config.wheel import _ensure, sources_digest, wheel_ensure
from core.errors import Busy


@pytest.fixture(scope="module")
def built():
    return wheel_ensure()


def test_wheel_holds_the_agent_and_the_engine_and_nothing_of_the_control_plane(built):
    names = zipfile.ZipFile(built.path).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {"agent", "snapshots"} <= tops
    assert not tops & {"config", "core", "pool", "hibernation", "gateway", "tests"}
    assert {name.split("/")[1] for name in names if name.startswith("snapshots/")} == {
        "__init__.py",
        "engine",
    }


def test_wheel_runs_where_there_is_nothing_else_of_ours(built, tmp_path):
    """Its third-party needs come from this environment; its own code from the wheel alone."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import agent.__main__, snapshots.engine.take; print(agent.__file__)", built.path],
        cwd=tmp_path, env={"PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(built.path) in done.stdout


def test_same_sources_make_the_same_bytes(built, tmp_path):
    _ensure.cache_clear()
    again = _ensure(settings.CHECKOUT, tmp_path)
    assert again.path.read_bytes() == built.path.read_bytes()


def test_index_names_the_wheel_with_the_hash_of_the_bytes_that_are_served(built, client):
    page = client.get("/agent/").content.decode()
    [(name, sha256)] = re.findall(r'href="([^"#]+)#sha256=([0-9a-f]{64})"', page)
    answer = client.get(f"/agent/{name}")
    assert hashlib.sha256(b"".join(answer.streaming_content)).hexdigest() == sha256
    assert int(answer.headers["Content-Length"]) == built.path.stat().st_size


@pytest.mark.parametrize("name", ["other.whl", "..%2F..%2Fsecrets.json", "%2Fetc%2Fpasswd"])
def test_nothing_else_is_served(built, client, name):
    assert client.get(f"/agent/{name}").status_code == 404


@pytest.fixture
def sources(tmp_path):
    """A copy of what the wheel is made of."""
    copy = tmp_path / "checkout"
    for source in wheel.SOURCES:
        target = copy / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (settings.CHECKOUT / source).is_dir():
            shutil.copytree(settings.CHECKOUT / source, target)
        else:
            shutil.copy(settings.CHECKOUT / source, target)
    return copy


def test_every_change_of_the_sources_is_noticed(sources):
    before = sources_digest(sources)
    (sources / "agent" / "wire.py").write_text((sources / "agent" / "wire.py").read_text() + "\n")
    changed = sources_digest(sources)
    (sources / "agent" / "__pycache__").mkdir(exist_ok=True)
    (sources / "agent" / "__pycache__" / "wire.cpython-311.pyc").touch()
    assert before != changed == sources_digest(sources)


def test_processes_that_build_at_once_agree_on_one_and_clear_away_what_is_old(built, tmp_path):
    (tmp_path / "older").mkdir()
    _ensure.cache_clear()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: _ensure.__wrapped__(settings.CHECKOUT, tmp_path), range(2))
    assert first == second
    assert [path.name for path in tmp_path.iterdir()] == [first.path.parent.name]


def test_build_that_fails_says_why(tmp_path, sources):
    (sources / "pyproject.toml").write_text("[broken")
    with pytest.raises(wheel.WheelNotBuilt, match="could not be built"):
        _ensure.__wrapped__(sources, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_box_is_told_the_wheel_by_name_and_hash_and_waits_where_it_cannot_be_built(monkeypatch):
    found = wheel.agent_wheel()
    assert (found.name, found.sha256) == (wheel_ensure().path.name, wheel_ensure().sha256)

    def broken():
        raise wheel.WheelNotBuilt("the agent's wheel could not be built: no hatch")

    monkeypatch.setattr(wheel, "wheel_ensure", broken)
    with pytest.raises(Busy, match="no hatch"):
        wheel.agent_wheel()
