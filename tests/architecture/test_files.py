"""What every file of this project keeps to."""

import re

from tests.architecture.source import ROOT, files, python_files

MOST_LINES = 500

# In two halves each, so that this file may hold them.
BANNED = [
    "/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/[a-z]", r"\.py" + "env", "/tm" + "p/bash",
    "py" + r"pi\.org", "pythonho" + "sted", "npm" + r"js\.org", r"crates\." + "io", r"proxy\.golang" + r"\.org",
    "clau" + "de", "anthro" + "pic", "chat" + "gpt", "copi" + "lot", "language " + "model",
]  # fmt: skip
TEXT = {
    ".py",
    ".md",
    ".toml",
    ".txt",
    ".in",
    ".html",
    ".css",
    ".js",
    ".po",
    ".yml",
    ".yaml",
    ".json",
    ".ipynb",
    "",
}


def test_no_file_is_longer_than_one_can_read():
    """And most are far shorter; a file that grows past this has two reasons to change."""
    long = {
        str(path.relative_to(ROOT)): lines
        for path in python_files()
        if "migrations" not in path.parts and (lines := len(path.read_text().splitlines())) > MOST_LINES
    }
    assert long == {}


def test_no_file_names_a_machine_a_registry_or_a_tool_that_is_none_of_the_readers_business():
    wanted = re.compile("|".join(BANNED), re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in files()
        if path.suffix in TEXT
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if (match := wanted.search(line))
    ]
    assert found == []


def test_locks_hold_hashes_and_no_address():
    for name in (
        "requirements.txt",
        "requirements-dev.txt",
        "requirements/kaggle-cli.txt",
        "requirements/vast-cli.txt",
    ):
        text = (ROOT / name).read_text()
        assert "://" not in text
        pins = re.findall(
            r"^[a-z0-9][^\n]*?==[^\n]*(?:\n    --hash=sha256:[0-9a-f]{64}[^\n]*)+", text, flags=re.MULTILINE
        )
        assert len(pins) == len(re.findall(r"^[a-z0-9][^\n]*==", text, flags=re.MULTILINE))


def test_every_test_file_is_found_by_pytest():
    """A folder without __init__.py, or a name without test_, is a promise that nobody checks."""
    lost = [
        str(path.relative_to(ROOT))
        for path in python_files("tests")
        if not path.name.startswith("test_")
        and re.search(r"^(async )?def test_", path.read_text(), flags=re.MULTILINE)
    ]
    assert lost == []
