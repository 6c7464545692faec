"""Documents say what is there."""

import re
from dataclasses import fields

from core.management.commands.state_tables import document as states_document
from gateway.settings import Limits
from tests.architecture.source import ROOT, files

TICKED = re.compile(r"`([^`\n]+)`")
A_PATH = re.compile(r"\.?[\w][\w./-]*")
SUFFIXES = (".py", ".md", ".toml", ".txt", ".in", ".ipynb")


def documents():
    return [
        path
        for path in files()
        if path.suffix == ".md" and (path.parent == ROOT or (ROOT / "docs") in path.parents)
    ]


def test_every_path_that_a_document_names_exists():
    tops = {path.relative_to(ROOT).parts[0] for path in files() if path.parent != ROOT}
    missing = [
        f"{document.relative_to(ROOT)}: {name}"
        for document in documents()
        for name in named_paths(document.read_text(), tops)
        if not (ROOT / name).exists() and not (document.parent / name).exists()
    ]
    assert missing == []


def named_paths(text, tops):
    """What stands in backticks and looks like a path of this project: below one of its folders, or a file by name."""
    for name in TICKED.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if not A_PATH.fullmatch(name) or name.startswith((".data", ".venv")):
            continue
        if ("/" in name and name.split("/")[0] in tops) or (
            name.endswith(SUFFIXES) and "/" not in name and name[0] != "."
        ):
            yield name


def test_links_between_documents_lead_somewhere():
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents()
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert broken == []


def test_state_diagrams_are_those_of_the_edge_tables():
    document = ROOT / "docs" / "design" / "states.md"
    assert document.read_text() == states_document(), "./run manage state_tables >docs/design/states.md"


def test_every_environment_variable_that_is_read_is_documented():
    """In the table of docs/operations.md, or, for an agent's own, wherever agents are documented."""
    text = "".join(path.read_text() for path in documents())
    read = {
        name
        for path in files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in ("config", "gateway")
        for name in re.findall(
            r'"((?:DORMOUSE|SNAPSHOT)_[A-Z0-9_]+|DATABASE_URL|REDIS_URL|LOG_FORMAT)"', path.read_text()
        )
        if not name.endswith("_")
    }
    read |= {f"DORMOUSE_GATEWAY_{limit.name.upper()}" for limit in fields(Limits)}
    assert sorted(name for name in read if f"`{name}`" not in text) == []
