"""Every reason that the code gives is worded, and gets the figures that its sentence needs; every sentence is used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

from core import reasons
from hibernation import reasons_chains
from snapshots import reasons as snapshot_reasons

ROOT = Path(__file__).resolve().parents[3]
CODE = [path for name in ("hibernation", "snapshots", "core") for path in (ROOT / name).rglob("*.py")]


def calls() -> Iterator[tuple[str, ast.Call]]:
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "because" and node.args:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_every_reason_is_worded_and_gets_its_figures() -> None:
    catalogue = reasons.catalogue()
    for where, call in calls():
        code = call.args[0]
        if not isinstance(code, ast.Constant):
            continue
        assert code.value in catalogue, f"{where}: no sentence for {code.value!r}"
        given = {keyword.arg for keyword in call.keywords}
        if None not in given:  # **figures cannot be told from here
            needed = {name for _, name, _, _ in Formatter().parse(catalogue[code.value]) if name}
            assert needed <= given, f"{where}: {code.value} needs {sorted(needed - given)}"


def test_every_sentence_of_the_chains_is_used() -> None:
    """Texts that nobody says any more are translated for nothing."""
    spoken = "\n".join(path.read_text() for path in CODE if not path.name.startswith("reasons"))
    for catalogue in (reasons_chains, snapshot_reasons):
        for code in ast.walk(ast.parse(Path(str(catalogue.__file__)).read_text())):
            if isinstance(code, ast.Dict):
                silent = [
                    key.value
                    for key in code.keys
                    if isinstance(key, ast.Constant) and f'"{key.value}"' not in spoken
                ]
                assert silent == []
