"""The notebooks as files, and what their first cells say to a person; whole runs are in tests/e2e/test_notebooks.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
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
    name: str, tmp_path: Path, *, secrets: object = None, env: dict[str, str] | None = None, **values: str
) -> str:
    """The sentence that the cell ends with, or what it printed."""
    (tmp_path / "secrets.json").write_text(json.dumps({} if secrets is None else secrets))
    parameters = re.sub(
        r'^(\w+) = ""', lambda m: f"{m[1]} = {values.get(m[1], '')!r}", cells(name)[1].source, flags=re.M
    )
    code = f"{parameters}\n{cells(name)[READ - 1].source}"
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
    return lines[-1].removeprefix("__main__.").removeprefix("Stop: ")


URL = "https://pool.example.com"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"JOIN_TOKEN": "dj_x"}, "there is no server address: write it like https://pool.example.com into SERVER_URL"),
        ({"SERVER_URL": "pool.example.com", "JOIN_TOKEN": "dj_x"}, "SERVER_URL is 'pool.example.com', which is no server"),
        ({"SERVER_URL": URL + "/agent/", "JOIN_TOKEN": "dj_x"}, "which is no server: write it like"),
        ({"SERVER_URL": URL}, "there is no join token: put one into JOIN_TOKEN in the first cell, or into the secret"),
        ({"SERVER_URL": URL, "ACCOUNT_LABEL": "my pool"}, "DORMOUSE_JOIN_TOKEN or DORMOUSE_JOIN_TOKEN_MY_POOL, then run"),
    ],
)  # fmt: skip
def test_value_that_is_missing_or_wrong_is_one_sentence(name, values, sentence, tmp_path):
    assert sentence in says(name, tmp_path, **values)


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


def test_kaggle_notebook_that_was_pushed_needs_no_secrets(tmp_path):
    said = says("kaggle", tmp_path, SERVER_URL=URL, JOIN_TOKEN="dj_x", secrets="pushed")
    assert said.startswith(f"Joining {URL}")
    assert "there is no join token" in says("kaggle", tmp_path, SERVER_URL=URL, secrets="pushed")
