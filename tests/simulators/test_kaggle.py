"""The double of Kaggle's API answers Kaggle's own client; and ours asks as that one does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pool.notebooks import notebook
from pool.providers.kaggle import Kaggle, Push, RunStatus
from tests.architecture.source import ROOT
from tests.simulators.kaggle import KaggleDouble

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLIENT = """
import sys
from kagglesdk import kaggle_env
kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = sys.argv.pop(1)
sys.argv[0] = "kaggle"
from kaggle.cli import main
main()
"""
"""The official command, whole; only the address of Kaggle is another one, which no option of it can say."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the official client, pinned and by hash."""
    folder = tmp_path_factory.mktemp("kaggle") / "venv"
    interpreter = folder / "bin" / "python"
    lock = ["--require-hashes", "-r", str(ROOT / "requirements" / "kaggle-cli.txt")]
    uv = shutil.which("uv")
    if uv:
        commands = [
            [uv, "venv", "-q", "--python", sys.executable, str(folder)],
            [uv, "pip", "install", "-q", "--python", str(interpreter), *lock],
        ]
    else:
        commands = [
            [sys.executable, "-m", "venv", str(folder)],
            [str(interpreter), "-m", "pip", "install", "-q", "--disable-pip-version-check", *lock],
        ]
    for command in commands:
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
        except subprocess.SubprocessError as error:
            said = getattr(error, "stderr", None) or str(error)
            pytest.skip(f"the official kaggle client cannot be installed here: {said[-300:]}")
    return interpreter


@pytest.fixture
def kaggle() -> Iterator[KaggleDouble]:
    with KaggleDouble() as double:
        double.person("ana")
        yield double


@pytest.fixture
def official(
    python: Path, kaggle: KaggleDouble, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """official("kernels", "status", …) → what Kaggle's own command said."""

    def run(*words: str, token: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("KAGGLE", "PYTHON"))
        }
        own = {"HOME": str(tmp_path), "KAGGLE_CONFIG_DIR": str(tmp_path)}
        # Whatever it might want of the real one, it does not get there.
        own |= {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
        login = env or {"KAGGLE_API_TOKEN": token or kaggle.people["ana"].token}
        return subprocess.run(
            [str(python), "-c", CLIENT, kaggle.origin, *words],
            cwd=tmp_path, env={**kept, **own, **login}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A notebook of ours as somebody would push it by hand."""
    folder = tmp_path / "notebook"
    folder.mkdir()
    (folder / "kaggle.ipynb").write_text(json.dumps(notebook("kaggle", JOIN_TOKEN="dj_x")))
    metadata = {
        "id": "ana/dormouse-one", "title": "dormouse-one", "code_file": "kaggle.ipynb", "language": "python",
        "kernel_type": "notebook", "is_private": True, "enable_gpu": True, "enable_internet": True,
    }  # fmt: skip
    (folder / "kernel-metadata.json").write_text(json.dumps(metadata))
    return folder


def ours(kaggle: KaggleDouble) -> Kaggle:
    return Kaggle(base_url=kaggle.base_url, credentials={"api_token": kaggle.people["ana"].token})


def push(**changes: object) -> Push:
    fields = {
        "slug": "dormouse-one", "title": "dormouse-one", "notebook": notebook("kaggle", JOIN_TOKEN="dj_x"),
        "accelerator": "NvidiaTeslaT4", "session_timeout_s": 3600,
    }  # fmt: skip
    return Push(**{**fields, **changes})


def test_official_client_and_ours_push_the_same(official, kaggle, folder):
    said = official("kernels", "push", "-p", str(folder), "--accelerator", "NvidiaTeslaT4", "-t", "3600")
    assert "Kernel version 1 successfully pushed" in said.stdout, said
    pushed = ours(kaggle).push("ana", push())
    assert (pushed.version, pushed.url) == (2, "https://www.kaggle.com/code/ana/dormouse-one")
    theirs, own = kaggle.called("SaveKernel")
    assert json.loads(theirs.pop("text")) == json.loads(own.pop("text"))
    # What the official client sends beyond ours is empty: sources of data, keywords.
    assert own == {name: value for name, value in theirs.items() if value not in ([], None)}


def test_both_see_the_same_run_from_queue_to_end(official, kaggle, folder, tmp_path):
    official("kernels", "push", "-p", str(folder))
    version = kaggle.latest("ana/dormouse-one")
    for status in RunStatus:
        version.status = str(status)
        assert status.value in official("kernels", "status", "ana/dormouse-one").stdout
        run = ours(kaggle).run("ana", "dormouse-one")
        assert run is not None and run.status == status
    version.status, version.failure = "ERROR", "Your notebook ran out of memory"
    assert "ran out of memory" in official("kernels", "status", "ana/dormouse-one").stdout
    run = ours(kaggle).run("ana", "dormouse-one")
    assert run is not None and run.failure == "Your notebook ran out of memory"


def test_both_read_the_same_output(official, kaggle, folder, tmp_path):
    official("kernels", "push", "-p", str(folder))
    version = kaggle.latest("ana/dormouse-one")
    version.says("hello\n")
    version.status = "COMPLETE"
    assert ours(kaggle).output("ana", "dormouse-one").startswith("hello\n[NbConvertApp] ")
    assert '"hello\\n"' in official("kernels", "logs", "ana/dormouse-one").stdout
    assert official("kernels", "logs", "ana/dormouse-one", "--follow").stdout.strip() == "hello"
    said = official("kernels", "output", "ana/dormouse-one", "-p", str(tmp_path / "out"))
    assert "dormouse-one.log" in said.stdout, said
    assert "hello" in (tmp_path / "out" / "dormouse-one.log").read_text()


def test_both_read_the_same_quota(official, kaggle):
    ana = kaggle.people["ana"]
    ana.used_s, ana.total_s = 12.5 * 3600 + 0.25, 30 * 3600
    row = next(line for line in official("quota").stdout.splitlines() if line.startswith("GPU"))
    assert row.split()[1:4] == ["12.50h", "17.50h", "30.00h"]
    quota = ours(kaggle).quota()
    assert (quota.used_s, quota.total_s) == (45000.25, 108000)
    assert quota.refresh_at is not None and quota.refresh_at.isoformat() == "2026-11-28T00:00:00+00:00"


def test_both_sign_in_with_the_older_name_and_key(official, kaggle):
    said = official("quota", KAGGLE_USERNAME="ana", KAGGLE_KEY="key-of-ana")
    assert "GPU" in said.stdout, said
    client = Kaggle(base_url=kaggle.base_url, credentials={"username": "ana", "key": "key-of-ana"})
    assert client.owner() == "ana" and client.quota().used_s == 0


def test_official_client_is_refused_as_ours_is(official, kaggle, folder):
    kaggle.people["ana"].used_s = kaggle.people["ana"].total_s
    said = official("kernels", "push", "-p", str(folder))
    assert "Kernel push error: Maximum weekly GPU quota of 30.00 hours reached." in said.stdout
    missing = official("kernels", "status", "ana/nothing-here")
    assert "Cannot access kernel" in missing.stdout + missing.stderr
    assert ours(kaggle).run("ana", "nothing-here") is None
    assert official("quota", token="KGAT_of-nobody").returncode != 0


def test_official_client_reads_back_what_ours_has_pushed(official, kaggle, tmp_path):
    ours(kaggle).push("ana", push())
    said = official("kernels", "pull", "ana/dormouse-one", "-p", str(tmp_path / "pulled"))
    assert said.returncode == 0, said
    [file] = (tmp_path / "pulled").glob("*.ipynb")
    assert "".join(json.loads(file.read_text())["cells"][1]["source"]).startswith('SERVER_URL = ""')
    assert ours(kaggle).version("ana", "dormouse-one") == 1
