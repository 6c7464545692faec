"""`./run` itself: every process real, in a data folder of the test's own."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from django.conf import settings

from config.launcher.kernel import descendants
from tests.config.processes import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

START_S = 120


class Launcher:
    """A started ./run and what it has printed. `below` is every process under it."""

    def __init__(self, folder, **environ):
        self.out = folder.parent / f"{folder.name}.out"
        env = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
        env |= {"DORMOUSE_DATA_DIR": str(folder), "DORMOUSE_LOCAL_AGENTS": "0", "NO_BROWSER": "1", **environ}
        env.pop("DJANGO_SETTINGS_MODULE", None)
        self.env = env
        self.data = folder
        with self.out.open("wb") as out:
            self.process = self._start(stdout=out, stderr=out)

    def _start(self, **streams):
        return subprocess.Popen(
            [sys.executable, "-m", "config.launcher"], cwd=settings.CHECKOUT, env=self.env, **streams
        )

    def again(self):
        process = self._start(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        out, _ = process.communicate(timeout=60)
        return process.returncode, out

    def said(self):
        return self.out.read_text()

    def ready(self):
        def look():
            assert self.process.poll() is None, self.said()
            return "Press Ctrl-C" in self.said()

        wait_for(look, "./run is ready", limit_s=START_S)
        self.below = descendants(self.process.pid)
        return self

    def url(self):
        return re.search(r"Console +(\S+)/", self.said())[1]

    def ended(self, code):
        assert self.process.wait(60) == code, self.said()
        wait_for(
            lambda: not any(os.path.exists(f"/proc/{pid}") for pid in self.below),
            "nothing is left",
            limit_s=20,
        )


@pytest.fixture
def launch(tmp_path):
    """launch(NAME=value) → Launcher, killed at the end; the same data folder each time."""
    made = []

    def make(**environ):
        made.append(Launcher(tmp_path / "data", **environ))
        return made[-1]

    yield make
    for launcher in made:
        if launcher.process.poll() is None:
            launcher.process.kill()
            launcher.process.wait()


def post(url, body, *, token):
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        return json.load(answer)


def test_everything_starts_answers_and_ends_with_ctrl_c(launch, free_port):
    with free_port.taken() as port:
        launcher = launch(DORMOUSE_PORT=str(port)).ready()
        assert f"Port {port} is taken; using " in launcher.said()
        assert launcher.url() != f"http://127.0.0.1:{port}"
        assert get(f"{launcher.url()}/readyz") == {"ready": True, "missing": []}
        token = launcher.data / "admin-token"
        assert token.stat().st_mode & 0o777 == 0o600
        schema = get(
            f"{launcher.url()}/api/schema/?format=json", Authorization=f"Bearer {token.read_text().strip()}"
        )
        assert schema["info"]["title"] == "Dormouse"
        code, said = launcher.again()
        assert code == 1
        assert f"already runs in this folder: {launcher.url()}/ (process {launcher.process.pid})" in said
        for name in ("dormouse.sqlite3", "secrets.json", "launcher.json", "logs"):
            assert (launcher.data / name).stat().st_mode & 0o077 == 0, f"{name} is open to others"
        launcher.process.send_signal(signal.SIGINT)
        launcher.ended(0)
        assert re.search(r"Stopped \d+ processes", launcher.said())
        assert "was killed" not in launcher.said()


JOB = "import time; time.sleep(313)"


def test_killed_launcher_leaves_nothing_not_even_a_job_and_a_server_that_dies_is_named(launch):
    launcher = launch(DORMOUSE_LOCAL_AGENTS="1").ready()
    token = (launcher.data / "admin-token").read_text().strip()
    status = get(f"{launcher.url()}/api/pool/status", Authorization=f"Bearer {token}")
    assert status["online"] == 1, "ready means that the pool has its workers"
    body = {"name": "long", "command": [sys.executable, "-c", JOB], "timeout_s": 600}
    post(f"{launcher.url()}/api/jobs", body, token=token)
    wait_for(lambda: running(launcher.process.pid, JOB), "the job runs, in a session of its own", limit_s=60)
    launcher.below = descendants(launcher.process.pid)
    launcher.process.kill()
    launcher.ended(-signal.SIGKILL)

    again = launch().ready()
    assert "with the password of before" in again.said()
    [beat] = running(again.process.pid, "\0beat\0")
    os.kill(beat, signal.SIGKILL)
    again.ended(1)
    assert f"beat ended with signal SIGKILL ({again.data}/logs/beat.log)" in again.said()


def running(pid, words):
    """Processes below `pid` with these words in their command line."""
    found = []
    for below in descendants(pid):
        try:
            if words.encode() in Path(f"/proc/{below}/cmdline").read_bytes():
                found.append(below)
        except FileNotFoundError:
            continue
    return found


def test_wrong_setting_starts_nothing_and_is_one_sentence(launch):
    launcher = launch(REDIS_URL="somewhere", LOG_FORMAT="xml")
    assert launcher.process.wait(60) == 2
    assert [line.split(" ")[1] for line in launcher.said().splitlines()[1:]] == ["REDIS_URL", "LOG_FORMAT"]
