"""Both notebooks, run by a real kernel as their providers run them, against an installation with every process real."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import requests

from tests.e2e.waiting import eventually
from tests.simulators.notebook_host import NotebookMachine, pip_wheels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

KINDS = ("colab", "kaggle")
_numbers = itertools.count(1)


@pytest.fixture
def machine(installation) -> Iterator[Callable[..., NotebookMachine]]:
    """machine("colab") → a fresh machine of that provider. Nothing of it is left after the test."""
    if not pip_wheels() and importlib.util.find_spec("pip") is None:
        pytest.skip("no pip for the notebook's machine: install python3-venv")
    made = []

    def make(provider: str, **env: str) -> NotebookMachine:
        own = {
            "INSTALLATION_UNDER_TEST": str(installation.data),
            "AGENT_BACKOFF_CAP_S": "1",
            "DORMOUSE_PATIENCE_S": "60",
            "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        }
        made.append(NotebookMachine(provider, env={**own, **env}))
        return made[-1]

    yield make
    for one in made:
        one.remove()


def downloaded(installation, kind: str, **values: str):
    """The notebook as everybody may download it, with the person's values typed in."""
    answer = requests.get(f"{installation.url}/agent/notebooks/{kind}.ipynb", timeout=30)
    assert answer.status_code == 200
    notebook = answer.json()
    [cell] = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", ())]
    text = "".join(cell["source"])
    for name, value in values.items():
        text, found = re.subn(rf'^{name} = ".*?"', f"{name} = {json.dumps(value)}", text, flags=re.MULTILINE)
        assert found == 1
    cell["source"] = text
    return notebook


def token_of(installation, account: str, **fields) -> str:
    return str(installation.client().post("/api/enrollment-tokens", account=account, **fields)["token"])


def online(installation, name: str, run):
    """The worker, once it is online; a notebook that ends before fails the test with what it said."""

    def look():
        assert not run.over, run.said
        return installation.client().worker(name, status="online")

    return eventually(look, what=lambda: f"{name} is online: {run.said[-3000:]}")


@pytest.mark.parametrize("kind", KINDS)
def test_two_values_and_run_all_make_a_worker_that_an_interrupt_ends(
    installation, account, submit, machine, kind
):
    owned = account(kind, check_interval_s=1)
    host = machine(kind)
    token, name = token_of(installation, owned), f"{kind}-nb-{next(_numbers)}"
    run = host.run(downloaded(installation, kind, JOIN_TOKEN=token, WORKER_NAME=name))
    worker = online(installation, name, run)
    assert worker["provider"] == kind
    client = installation.client()
    job = submit(script="echo from the notebook; echo token=$DORMOUSE_JOIN_TOKEN", provider=kind)
    ended = eventually(lambda: client.job_ended(job), what="the job ends")
    assert (ended["status"], ended["worker"]["name"]) == ("succeeded", name)
    assert client.log(job) == "from the notebook\ntoken=\n"

    run.interrupt()
    run.wait(30)
    assert not run.failed, run.said
    assert "Interrupted: the agent has ended" in run.said
    assert token not in run.said
    assert host.given_back == (1 if kind == "colab" else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_session_ends_itself_at_its_limit(installation, account, machine, kind):
    # Long enough to be online once, from the kernel's start: 30 s of a session of 36.
    owned = account(kind, check_interval_s=1, session_limit_h=36 / 3600, session_shutdown_h=30 / 3600)
    host, name = machine(kind), f"{kind}-short-{next(_numbers)}"
    values = {"JOIN_TOKEN": token_of(installation, owned), "WORKER_NAME": name}
    run = host.run(downloaded(installation, kind, **values)).wait(90)
    assert not run.failed, run.said
    assert "the session's limit of 0.00833333 h is reached" in run.said
    assert run.said.rstrip().endswith(
        "Giving the runtime back." if kind == "colab" else "The agent has ended."
    )
    assert host.given_back == (1 if kind == "colab" else 0)
    # It has said so itself, and its books were closed by that: nothing is estimated of what nobody saw.
    client = installation.client()
    worker = eventually(lambda: client.worker(name, status="offline"), what="the worker is offline")
    assert worker["reason"] == "its session has ended"
    session = installation.rows.one("SELECT * FROM pool_session WHERE worker_id = ?", worker["id"])
    assert 29.5 < session["runtime_s"] < 32
    assert session["ended_at"] is not None and session["estimated_until"] is None
    week = installation.rows.one("SELECT * FROM pool_accountweek WHERE account_id = ?", owned)
    assert abs(week["used_s"] - session["runtime_s"]) < 0.1 and week["estimated_s"] == 0
    [state] = installation.rows.all("SELECT state_since FROM pool_worker WHERE id = ?", worker["id"])
    assert abs((state["state_since"] - session["ended_at"]).total_seconds()) < 3


def test_secrets_of_the_store_are_used_where_the_cell_is_empty(installation, account, machine):
    owned, host = account("colab", check_interval_s=1), machine("colab")
    name = f"colab-secret-{next(_numbers)}"
    host.secrets({"DORMOUSE_JOIN_TOKEN_MY_POOL": {"value": token_of(installation, owned), "access": True}})
    run = host.run(downloaded(installation, "colab", ACCOUNT_LABEL="my pool", WORKER_NAME=name))
    online(installation, name, run)
    run.interrupt()
    assert not run.wait(30).failed

    owned, host = account("kaggle", check_interval_s=1), machine("kaggle")
    name = f"kaggle-secret-{next(_numbers)}"
    host.secrets({"DORMOUSE_JOIN_TOKEN": token_of(installation, owned), "DORMOUSE_URL": installation.url})
    run = host.run(downloaded(installation, "kaggle", SERVER_URL="", WORKER_NAME=name))
    online(installation, name, run)
    run.interrupt()
    assert not run.wait(30).failed


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_token_is_one_sentence_and_the_machine_is_kept(installation, machine, kind):
    host = machine(kind)
    run = host.run(downloaded(installation, kind, JOIN_TOKEN="dj_not-a-token")).wait()
    assert run.failed
    [sentence] = run.sentences
    assert sentence == (
        "Dormouse: the control plane did not take this token: this join token is unknown (make a new join token: POST"
        " /api/enrollment-tokens). In the console open Workers, then Add a worker; put the new join token into the"
        " first cell (or into the secret), then run all cells again."
    )
    assert host.given_back == 0


def test_account_whose_terms_nobody_acknowledged_enrols_no_notebook(installation, account, machine):
    owned = account("colab")
    token = token_of(installation, owned)
    installation.rows.change("DELETE FROM pool_termsacknowledgement WHERE account_id = ?", owned)
    run = machine("colab").run(downloaded(installation, "colab", JOIN_TOKEN=token)).wait()
    [sentence] = run.sentences
    assert "nobody has acknowledged yet what the provider of account colab" in sentence
    assert "Free runtimes are not for this" in sentence


def test_network_that_comes_late_is_waited_for(installation, account, machine):
    owned, name = account("kaggle", check_interval_s=1), f"kaggle-late-{next(_numbers)}"
    wire = Wire(installation.url)
    values = {"SERVER_URL": wire.url, "JOIN_TOKEN": token_of(installation, owned), "WORKER_NAME": name}
    run = machine("kaggle").run(downloaded(installation, "kaggle", **values))
    eventually(lambda: "cannot be reached yet" in run.said, what=lambda: f"the notebook says so: {run.said}")
    with wire:
        online(installation, name, run)
        run.interrupt()
        assert not run.wait(30).failed


def test_network_that_never_comes_is_one_sentence(installation, machine):
    values = {"SERVER_URL": Wire(installation.url).url, "JOIN_TOKEN": "dj_x"}
    host = machine("kaggle", DORMOUSE_PATIENCE_S="1")
    run = host.run(downloaded(installation, "kaggle", **values)).wait()
    [sentence] = run.sentences
    assert "could not be reached ([Errno" in sentence
    assert "switch the internet on (Settings, then Internet)" in sentence


def test_wheel_that_is_not_the_one_of_that_hash_is_not_installed(installation, machine):
    with Tampered(installation.url) as server:
        values = {"SERVER_URL": server.url, "JOIN_TOKEN": "dj_x"}
        run = machine("colab").run(downloaded(installation, "colab", **values)).wait()
    [sentence] = run.sentences
    assert sentence.startswith("Dormouse: the agent could not be installed. Run all cells again; pip says: ")
    assert "DO NOT MATCH THE HASHES" in sentence


def test_server_that_restarts_finds_its_worker_and_the_job_again(installation, account, submit, machine):
    # The interval is long enough for an outage to be no silence.
    owned, host = account("colab", check_interval_s=20), machine("colab")
    name = f"colab-steady-{next(_numbers)}"
    values = {"JOIN_TOKEN": token_of(installation, owned), "WORKER_NAME": name}
    run = host.run(downloaded(installation, "colab", **values))
    worker = online(installation, name, run)
    client = installation.client()
    go = host.folder / "go"
    job = submit(script=f"while [ ! -e {go} ]; do echo on; sleep 0.05; done; echo end", provider="colab")
    eventually(lambda: client.log(job), what="the job's output arrives")
    with installation.without("gateway", "web"):
        eventually(
            lambda: " log waits " in run.said, what=lambda: f"the notebook notices: {run.said[-3000:]}"
        )
    go.touch()
    ended = eventually(lambda: client.job_ended(job), what="the job ends")
    assert (ended["status"], len(ended["attempts"])) == ("succeeded", 1), ended
    lines = client.log(job).splitlines()
    assert (set(lines[:-1]), lines[-1]) == ({"on"}, "end")
    assert client.worker(name)["epoch"] == worker["epoch"]
    run.interrupt()
    assert not run.wait(30).failed


def test_kernel_that_is_killed_takes_the_agent_along_and_the_same_cells_are_the_same_worker(
    installation, account, machine
):
    owned, host = account("colab", check_interval_s=1), machine("colab")
    name = f"colab-again-{next(_numbers)}"
    values = {"JOIN_TOKEN": token_of(installation, owned), "WORKER_NAME": name}
    notebook = downloaded(installation, "colab", **values)
    first = host.run(notebook)
    before = online(installation, name, first)
    first.kill()
    first.wait(30)
    gone = str(host.python)
    eventually(
        lambda: not [line for line in installation.processes().values() if gone in line],
        what=lambda: f"nothing of the notebook is left: {installation.processes()}",
    )
    second = host.run(notebook)
    eventually(
        lambda: "known url=" in second.said, what=lambda: f"it takes its identity up: {second.said[-2000:]}"
    )
    after = online(installation, name, second)
    assert (after["id"], after["epoch"]) == (before["id"], before["epoch"])
    second.interrupt()
    assert not second.wait(30).failed


class Wire:
    """A port that leads to the installation, once it is connected; before that nobody answers there."""

    def __init__(self, target: str) -> None:
        self._target = target.removeprefix("http://").split(":")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Wire:
        self._server = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection((self._target[0], int(self._target[1])))
                for a, b in ((client, server), (server, client)):
                    threading.Thread(target=_pump, args=(a, b), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


class Tampered:
    """An agent page that names one hash, and a wheel of another."""

    def __init__(self, url: str) -> None:
        self._index = requests.get(f"{url}/agent/", timeout=30).text
        [name] = re.findall(r'href="([^"#]+)#', self._index)
        self._wheel = requests.get(f"{url}/agent/{name}", timeout=30).content + b"\0"

    def __enter__(self) -> Tampered:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                path = client.recv(65536).split(b" ")[1]
                body = self._index.encode() if path == b"/agent/" else self._wheel
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                client.sendall(head.encode() + body)
                client.close()
