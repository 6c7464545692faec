"""The wheel that a GPU machine installs: small, complete, and without the control plane."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.agent.conftest import REPOSITORY

WITHOUT_DJANGO = """
import importlib.abc, pkgutil, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in FORBIDDEN:
            raise ImportError(name + " is not on a GPU machine")

FORBIDDEN = {"django", "rest_framework", "config", "core", "pool", "hibernation", "gateway", "hatchling"}
sys.meta_path.insert(0, Refuse())
import agent, snapshots.engine
for package in (agent, snapshots.engine):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith(("__main__", "metadata_hook")) and ".notebooks" not in module.name:
            __import__(module.name)
import agent.__main__
assert not FORBIDDEN & {name.split(".")[0] for name in sys.modules}
print(len(sys.modules))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (made,) = folder.glob("*.whl")
    return made


def test_every_module_works_where_django_and_the_control_plane_cannot_be_imported() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_DJANGO], cwd=REPOSITORY, check=True)


def test_wheel_holds_the_agent_and_the_engine_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"agent/__main__.py", "agent/wire.py", "snapshots/__init__.py", "snapshots/engine/take.py"} <= set(
        names
    )
    others = [
        name
        for name in names
        if not re.match(r"agent/|snapshots/__init__\.py|snapshots/engine/|dormouse_agent-", name)
    ]
    assert others == [] and not any("metadata_hook" in name or "notebooks" in name for name in names)
    assert wheel.stat().st_size < 1_000_000 and wheel.name.endswith("-py3-none-any.whl")


def test_wheel_needs_what_requirements_txt_says(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA")]
    needed = set(re.findall(r"^Requires-Dist: ([\w-]+)", metadata, re.MULTILINE))
    lines = (REPOSITORY / "agent" / "requirements.txt").read_text().splitlines()
    assert needed == {re.split(r"[<>=]", line)[0] for line in lines if line and not line.startswith("#")}
    assert {"celery", "kombu", "requests", "nvidia-ml-py"} <= needed
    entry_points = [
        archive.read(name).decode() for name in archive.namelist() if name.endswith("/entry_points.txt")
    ]
    assert "dormouse-agent = agent.__main__:main" in entry_points[0]


def test_wheel_runs_from_its_own_files(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "PYTHONSAFEPATH": "1"}
    words = [sys.executable, "-m", "agent"]
    said = subprocess.run(
        [*words, "--help"], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert "exit codes: 0 ended as asked" in " ".join(said.stdout.split())
    where = subprocess.run(
        [sys.executable, "-c", "import agent.agent; print(agent.agent.__file__)"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(tmp_path) in where.stdout
    wrong = subprocess.run(
        [*words, "run", "--state-dir", str(tmp_path / "s")],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 2 and "join with --join URL TOKEN" in wrong.stderr


def test_versions_agree() -> None:
    from agent import __version__

    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == ">=3.11"


@pytest.mark.slow
def test_a_wrong_word_ends_with_2_at_once(tmp_path: Path) -> None:
    for words in (["walk"], ["run", "--join", "x"], []):
        wrong = subprocess.run(
            [sys.executable, "-m", "agent", *words],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
