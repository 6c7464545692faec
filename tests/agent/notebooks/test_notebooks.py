"""The notebooks as files, and what their first cells say to a person; whole runs are in tests/e2e/test_notebooks.py."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jupytext
import nbformat
import pytest

from agent.notebooks.build import FOLDER, NAMES, built
from pool.terms import TERMS
from tests.simulators import notebook_host

READ, INSTALL = 4, 6
"""Which cells: that reads the values, that installs the agent."""


def cells(name: str) -> list[nbformat.NotebookNode]:
    return list(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_exactly_what_its_source_gives(name):
    assert (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8") == built(name), (
        "run `python -m agent.notebooks.build`"
    )


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_valid_has_no_output_and_asks_for_a_gpu(name):
    found = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(found)
    assert all(
        not cell.outputs and cell.execution_count is None for cell in found.cells if cell.cell_type == "code"
    )
    assert found.metadata.get("accelerator") == "GPU" or found.metadata["kaggle"]["isGpuEnabled"]


@pytest.mark.parametrize("name", NAMES)
def test_jupytext_takes_the_notebook_back_to_its_source(name):
    """So that somebody may edit the notebook in Jupyter and keep the source as the one that is reviewed."""
    again = jupytext.reads(
        jupytext.writes(nbformat.read(FOLDER / f"{name}.ipynb", 4), fmt="py:percent"), "py:percent"
    )
    assert [cell.source for cell in again.cells] == [cell.source for cell in cells(name)]


@pytest.mark.parametrize("name", NAMES)
def test_notebook_says_every_sentence_of_the_terms(name):
    text = " ".join(cells(name)[0].source.replace("\n- ", "\n").split())
    terms = TERMS[name]
    for part in (*terms.sentences, terms.source, f"text of {terms.version}"):
        assert part in text


def test_the_two_differ_only_where_they_speak_to_their_provider():
    colab, kaggle = cells("colab"), cells("kaggle")
    own = r"def secret\(name\):.*?\n\n\n(?=def)"
    assert [re.sub(own, "", cell[READ - 1].source, flags=re.S) for cell in (colab,)] == [
        re.sub(own, "", cell[READ - 1].source, flags=re.S) for cell in (kaggle,)
    ]
    hint = r'raise Stop\(\s*f"{server_url} could not be reached.*?\)\n'
    assert re.sub(hint, "", colab[INSTALL - 1].source, flags=re.S) == re.sub(
        hint, "", kaggle[INSTALL - 1].source, flags=re.S
    )


# -- the first cells, as Python: what is said where a value is missing or wrong ---------------------------


def says(
    name: str,
    tmp_path: Path,
    *,
    secrets: object = None,
    env: dict[str, str] | None = None,
    whole: bool = False,
    then: str = "",
    **values: str,
) -> str:
    """The sentence that the cell ends with, or the last that it printed. then: code to run after it."""
    (tmp_path / "secrets.json").write_text(json.dumps({} if secrets is None else secrets))
    parameters = re.sub(
        r'^(\w+) = ""', lambda m: f"{m[1]} = {values.get(m[1], '')!r}", cells(name)[1].source, flags=re.M
    )
    code = f"{parameters}\n{cells(name)[READ - 1].source}\n{then}"
    own = {f"{name.upper()}_DOUBLE": str(tmp_path), "PYTHONPATH": str(notebook_host.MODULES[name])}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DORMOUSE_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **own, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (done.stderr or done.stdout).strip().splitlines()
    if whole:
        return done.stdout + done.stderr
    return lines[-1].removeprefix("__main__.").removeprefix("Stop: ")


URL = "https://pool.example.com"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"JOIN_TOKEN": "dj_x"}, "there is no server address: write it like https://pool.example.com into SERVER_URL"),
        ({"SERVER_URL": "pool.example.com", "JOIN_TOKEN": "dj_x"}, "what SERVER_URL holds is no server's address: write"),
        ({"SERVER_URL": URL + "/agent/", "JOIN_TOKEN": "dj_x"}, "is no server's address: write it like"),
        ({"SERVER_URL": "https://host:port", "JOIN_TOKEN": "dj_x"}, "is no server's address"),
        ({"SERVER_URL": "https://.example.com", "JOIN_TOKEN": "dj_x"}, "is no server's address"),
        ({"SERVER_URL": "http://[::1", "JOIN_TOKEN": "dj_x"}, "is no server's address"),
        ({"SERVER_URL": "https://host:0", "JOIN_TOKEN": "dj_x"}, "is no server's address"),
        ({"SERVER_URL": URL}, "there is no join token: put one into JOIN_TOKEN in the first cell, or into the secret"),
        ({"SERVER_URL": URL, "ACCOUNT_LABEL": "my pool"}, "DORMOUSE_JOIN_TOKEN or DORMOUSE_JOIN_TOKEN_MY_POOL, then run"),
    ],
)  # fmt: skip
def test_value_that_is_missing_or_wrong_is_one_sentence(name, values, sentence, tmp_path):
    assert sentence in says(name, tmp_path, **values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("url", ["dj_s3cr3t", "https://dj_s3cr3t", "https://ana:s3cr3t@pool.example.com"])
def test_secret_in_the_wrong_place_is_not_printed(name, url, tmp_path):
    """What a cell prints is saved with the notebook, and shared with it."""
    said = says(name, tmp_path, SERVER_URL=url, JOIN_TOKEN="dj_x")
    assert "is no server's address" in said and "s3cr3t" not in said


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://localhost:8000", "https://10.0.0.7", "http://[::1]:8000"]
)
def test_address_that_leads_nowhere_from_there_is_said_so(name, url, tmp_path):
    said = says(name, tmp_path, whole=True, SERVER_URL=url, JOIN_TOKEN="dj_x")
    assert f"Note: {url} is an address of this machine or of a private network" in said
    assert "Note" not in says(name, tmp_path, whole=True, SERVER_URL=URL, JOIN_TOKEN="dj_x")


@pytest.mark.parametrize("name", NAMES)
def test_values_may_be_typed_with_spaces_and_a_slash(name, tmp_path):
    said = says(name, tmp_path, SERVER_URL=f" {URL}/ ", JOIN_TOKEN=" dj_x\n", WORKER_NAME=" w1 ")
    assert said == f"Joining {URL} as w1."


@pytest.mark.parametrize("name", NAMES)
def test_outside_of_its_provider_the_environment_is_the_store(name, tmp_path):
    env = {"DORMOUSE_URL": URL, "DORMOUSE_JOIN_TOKEN": "dj_x", "PYTHONPATH": ""}
    assert says(name, tmp_path, env=env) == f"Joining {URL} as a worker that the server will name."


def test_colab_secret_without_access_says_which_switch(tmp_path):
    secrets = {"DORMOUSE_JOIN_TOKEN": {"value": "dj_x", "access": False}}
    said = says("colab", tmp_path, SERVER_URL=URL, secrets=secrets)
    assert said.startswith(
        "the secret DORMOUSE_JOIN_TOKEN is there, but this notebook may not read it: open Secrets"
    )


def test_colab_that_does_not_answer_says_to_keep_the_page_open(tmp_path):
    assert "keep this page open" in says("colab", tmp_path, SERVER_URL=URL, secrets="no answer")


def test_kaggle_without_internet_says_where_to_switch_it_on(tmp_path):
    said = says("kaggle", tmp_path, SERVER_URL=URL, secrets="offline")
    assert "switch the internet on (Settings, then Internet)" in said


@pytest.mark.parametrize("secrets", ["pushed", "no token"])
def test_kaggle_notebook_that_was_pushed_needs_no_secrets(tmp_path, secrets):
    said = says("kaggle", tmp_path, SERVER_URL=URL, JOIN_TOKEN="dj_x", secrets=secrets)
    assert said.startswith(f"Joining {URL}")
    said = says("kaggle", tmp_path, SERVER_URL=URL, secrets=secrets)
    assert "there is no join token" in said and "internet" not in said


def test_kaggle_that_is_in_trouble_is_not_told_as_an_internet_that_is_off(tmp_path):
    said = says("kaggle", tmp_path, SERVER_URL=URL, secrets="in trouble")
    assert said == "Kaggle's secrets cannot be read (it answers 500): run all cells again."


# -- fetching what the server offers -----------------------------------------------------------------------


class Offer:
    """A server that answers /agent/ with one raw answer after the other."""

    def __init__(self, *answers: bytes) -> None:
        self.asked: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._serve, args=(answers,), daemon=True).start()

    def _serve(self, answers: tuple[bytes, ...]) -> None:
        for answer in answers:
            client, _ = self._server.accept()
            with client:
                self.asked.append(client.recv(65536))
                client.sendall(answer)
        self._server.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


def fetched(tmp_path: Path, offer: Offer) -> str:
    """What the install cell's fetch gives, or the sentence that it ends with."""
    cell = cells("colab")[INSTALL - 1].source
    head = cell[: cell.index("def pip_install")]
    code = f"{head}\nprint('GOT', fetch(server_url + '/agent/'))"
    env = {"DORMOUSE_PATIENCE_S": "20", "no_proxy": "*"}
    return says("colab", tmp_path, SERVER_URL=offer.url, JOIN_TOKEN="dj_x", then=code, env=env)


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhel",
        b"HTTP/1.1 429 Slow Down\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 Oh\r\nContent-Length: 0\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
    ],
)
def test_answer_that_is_cut_off_or_says_later_is_asked_for_again(tmp_path, first):
    offer = Offer(first, OK)
    assert fetched(tmp_path, offer) == "GOT hello"
    assert b"User-Agent: dormouse-notebook" in offer.asked[1]


@pytest.mark.parametrize("status", [400, 403, 404, 407])
def test_answer_that_refuses_is_told_with_its_status(tmp_path, status):
    offer = Offer(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)
    said = fetched(tmp_path, offer)
    assert said.startswith(
        f"{offer.url}/agent/ answers {status}: SERVER_URL is not the address of a Dormouse server, or"
    )


@pytest.mark.parametrize("name", NAMES)
def test_cells_that_are_run_again_use_the_agent_that_was_just_installed(name, tmp_path):
    install = cells(name)[INSTALL - 1].source
    forget = install[install.index("for module in [") : install.index('print(f"Installed')]
    load = cells(name)[-1].source.partition("\n")[0]
    assert load == "from agent import cell"
    (tmp_path / "agent").mkdir()
    module = tmp_path / "agent" / "cell.py"
    (tmp_path / "agent" / "__init__.py").write_text("")
    module.write_text("version = 1")
    code = (
        f"import importlib, sys\nfrom pathlib import Path\n{load}\nPath({str(module)!r}).write_text('version = 22')\n"
        f"{forget}\n{load}\nprint(cell.version)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "22\n", done.stderr
