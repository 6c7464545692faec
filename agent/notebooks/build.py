"""`python -m agent.notebooks.build`: each notebook's .ipynb from its source beside it. Needs jupytext (requirements-dev).

The same source gives the same bytes: cells are numbered, there are no outputs, and nothing names the tool's version.
"""

from __future__ import annotations

import json
from pathlib import Path

import jupytext

FOLDER = Path(__file__).parent
NAMES = ("colab", "kaggle")


def built(name: str) -> str:
    """The .ipynb of `<name>.py`, whole."""
    notebook = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    notebook.metadata.pop("jupytext", None)
    for number, cell in enumerate(notebook.cells, start=1):
        cell["id"] = f"{name}-{number}"
        cell["source"] = cell["source"].splitlines(keepends=True)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    for name in NAMES:
        path = FOLDER / f"{name}.ipynb"
        path.write_text(built(name), encoding="utf-8")
        print(f"{path.name} written from {name}.py")


if __name__ == "__main__":
    main()
