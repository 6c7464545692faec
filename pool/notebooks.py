"""The notebooks that make a worker of a Colab or Kaggle session, with the person's values filled in.

Their sources are in `agent/notebooks/`; here they are read as the files that they are, never imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings

NAMES = ("colab", "kaggle")
MEDIA_TYPE = "application/x-ipynb+json"
VALUES = ("SERVER_URL", "JOIN_TOKEN", "ACCOUNT_LABEL", "WORKER_NAME")
"""The assignments of the cell that is tagged `parameters`: what a person would fill in by hand."""


def notebook(name: str, **values: str) -> dict[str, Any]:
    """The notebook of that name (one of NAMES) with these of VALUES filled in, the others left empty."""
    found: dict[str, Any] = json.loads(_text(settings.CHECKOUT / "agent" / "notebooks" / f"{name}.ipynb"))
    [cell] = [cell for cell in found["cells"] if "parameters" in cell["metadata"].get("tags", ())]
    cell["source"] = [_filled(line, values) for line in cell["source"]]
    return found


def notebook_file(name: str, **values: str) -> bytes:
    """The same, as the bytes of an .ipynb file."""
    return (json.dumps(notebook(name, **values), indent=1, ensure_ascii=False) + "\n").encode()


@lru_cache(maxsize=len(NAMES))
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _filled(line: str, values: Mapping[str, str]) -> str:
    match = re.match(r'([A-Z_]+) = ""', line)
    if match is None or match[1] not in values:
        return line
    assert match[1] in VALUES, match[1]
    # A JSON text is a Python literal too; what is not ASCII stands in it as it is.
    return f"{match[1]} = {json.dumps(values[match[1]], ensure_ascii=False)}{line[match.end() :]}"
