"""vast.ai's own command line, unchanged and pinned, driven against the simulator: what it asks for is answered so that it
believes it, and does to the simulator what it says. Its exit code is 0 even on errors: only output and books count."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from tests.hibernation.providers.hosts import eventually
from tests.simulators.vast.running import Simulator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LOCK = Path(settings.CHECKOUT) / "requirements" / "vast-cli.txt"
INSTALL_LIMIT_S = 300
Cli = Callable[..., str]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`vastai` in an environment of its own, made for this run; skipped, with the reason, where that cannot be."""
    folder = tmp_path_factory.mktemp("vast-cli") / "venv"
    uv = shutil.which("uv")
    if uv:
        steps = [[uv, "venv", "-q", "--python", sys.executable, str(folder)],
                 [uv, "pip", "install", "-q", "--python", str(folder / "bin" / "python"), "--require-hashes", "-r", str(LOCK)]]  # fmt: skip
    else:
        pip = [
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--no-input",
        ]
        steps = [[sys.executable, "-m", "venv", str(folder)], [*pip, "--require-hashes", "-r", str(LOCK)]]
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, text=True, check=False, timeout=INSTALL_LIMIT_S)
        except subprocess.TimeoutExpired:
            pytest.skip(f"the official command line was not installed within {INSTALL_LIMIT_S} s")
        if done.returncode:
            pytest.skip(f"the official command line cannot be installed here: {done.stderr.strip()[-300:]}")
    return folder / "bin" / "vastai"


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """With vast.ai's own rate limits switched off: the command line makes several calls for one command."""
    made = Simulator(tmp_path_factory.mktemp("vast") / "simulator").start()
    yield made
    made.stop()


@pytest.fixture
def cli(program: Path, simulator: Simulator, tmp_path: Path) -> Cli:
    """cli(word, …) -> what it printed. A home of its own; the server by VAST_URL, because --url is not obeyed everywhere."""
    folders = {name: str(tmp_path / name) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME")}  # fmt: skip
    env = {"PATH": os.environ["PATH"], "VAST_URL": simulator.url, "VAST_API_KEY": "sim-cli",
           "VASTAI_NO_UPDATE_CHECK": "1", "NO_COLOR": "1", **folders}  # fmt: skip
    for folder in folders.values():
        Path(folder).mkdir()

    def call(*words: str) -> str:
        done = subprocess.run(
            [program, *words], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    return call


def raw(cli: Cli, *words: str) -> Any:
    printed = cli(*words, "--raw")
    return json.loads(printed)


def test_search_create_show_label_stop_start_destroy(cli: Cli, simulator: Simulator) -> None:
    query = "gpu_name=RTX_4090 num_gpus=1 dph<0.5 reliability>0.98 geolocation=SE"
    offers = raw(cli, "search", "offers", query, "-o", "dph", "--limit", "2", "--storage", "40")
    assert [offer["gpu_name"] for offer in offers] == ["RTX 4090", "RTX 4090"]
    assert {offer["machine_id"] for offer in offers} == {1001}
    assert offers[0]["dph_total"] == pytest.approx(0.35 + 0.15 * 40 / 720)

    created = raw(
        cli, "create", "instance", str(offers[0]["id"]), "--image", "pytorch/pytorch", "--disk", "40", "--ssh", "--direct",
        "--label", "L1", "--cancel-unavail", "--env", "-e A=b -p 8000:8000", "--onstart-cmd", "echo hi",
    )  # fmt: skip
    ref = str(created["new_contract"])
    contract = simulator.contract(ref)
    assert created["success"] is True and contract["lives"]
    assert (contract["label"], contract["disk_gb"], contract["onstart"]) == ("L1", 40, "echo hi")
    assert contract["runtype"] == "ssh_direc ssh_proxy" and contract["env"] == {"A": "b", "-p 8000:8000": "1"}

    eventually(lambda: raw(cli, "show", "instance", ref)["actual_status"] == "running", within_s=60)
    assert [row["id"] for row in raw(cli, "show", "instances")] == [int(ref)]
    assert "RTX_4090" in cli("show", "instance", ref)
    assert raw(cli, "show", "user")["credit"] > 99

    assert "set to L2" in cli("label", "instance", ref, "L2")
    assert simulator.contract(ref)["label"] == "L2"
    assert "stopping instance" in cli("stop", "instance", ref)
    assert simulator.contract(ref)["intended"] == "stopped"
    eventually(lambda: raw(cli, "show", "instance", ref)["actual_status"] == "exited", within_s=60)
    assert "starting instance" in cli("start", "instance", ref)
    eventually(lambda: raw(cli, "show", "instance", ref)["actual_status"] == "running", within_s=60)

    assert "destroying instance" in cli("destroy", "instance", ref, "-y")
    assert not simulator.contract(ref)["lives"] and raw(cli, "show", "instances") == []


def test_what_goes_wrong_is_said_as_vast_ai_says_it(cli: Cli) -> None:
    refused = raw(cli, "create", "instance", "99", "--image", "i", "--disk", "10")
    assert (refused["error"], refused["status_code"]) == (True, 400) and "no_such_ask" in refused["msg"]
    assert "Invalid user key" in cli("show", "instances", "--raw", "--api-key", "not-a-key")


def test_several_instances_are_all_shown_and_all_destroyed(cli: Cli, simulator: Simulator) -> None:
    offers = raw(cli, "search", "offers", "num_gpus=1 verified=any", "-n", "--limit", "64")
    made = {
        raw(cli, "create", "instance", str(offer["id"]), "--image", "i", "--disk", "8")["new_contract"]
        for offer in offers[:3]
    }
    assert {row["id"] for row in raw(cli, "show", "instances")} == made
    for contract_id in made:
        cli("destroy", "instance", str(contract_id), "-y")
    assert raw(cli, "show", "instances") == [] and len(simulator.contracts(tenant="sim-cli")) == 0
